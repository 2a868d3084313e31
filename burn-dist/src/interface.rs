//! Which of its addresses a process uses: the one on the way to rank 0, or one of an interface that the user names, in
//! NCCL's syntax (`NCCL_SOCKET_IFNAME` of its manual). Never one that others cannot reach.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use crate::{
    env::Identity,
    error::{DistError, Result},
};

/// A network interface's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
}

/// The addresses that this machine has.
///
/// # Errors
/// The system does not say.
pub(crate) fn all() -> Result<Vec<Interface>> {
    let all = if_addrs::get_if_addrs().map_err(DistError::io("list the network interfaces"))?;
    Ok(all.into_iter().map(|one| Interface { address: one.ip(), name: one.name }).collect())
}

/// The address at which other ranks reach this one. `route` is this machine's address on the way to rank 0, which is
/// at `master`.
///
/// # Errors
/// See [`choose`].
pub(crate) fn to_advertise(route: IpAddr, master: IpAddr, pattern: Option<&str>) -> Result<IpAddr> {
    choose(&all()?, route, master, pattern)
}

/// [`to_advertise`], with the interfaces given.
///
/// # Errors
/// No interface fits `pattern`, or only one that other machines cannot reach although rank 0 is on one.
pub(crate) fn choose(
    interfaces: &[Interface],
    route: IpAddr,
    master: IpAddr,
    pattern: Option<&str>,
) -> Result<IpAddr> {
    let (route, master) = (route.to_canonical(), master.to_canonical());
    let chosen = match pattern.map(Pattern::parse) {
        None => route,
        Some(fits) => {
            let fitting = || interfaces.iter().filter(|one| fits.fits(&one.name)).map(|one| one.address);
            let reachable =
                |address: &IpAddr| address.is_ipv4() == master.is_ipv4() && !is_local_only(*address);
            // The way to rank 0 if it is among them.
            let on_the_way = fitting().find(|address| *address == route);
            on_the_way.or_else(|| fitting().find(reachable)).or_else(|| fitting().next()).ok_or_else(
                || {
                    DistError::config(format!(
                        "no network interface fits {:?}: this machine has {}",
                        pattern.unwrap_or_default(),
                        list(interfaces)
                    ))
                },
            )?
        }
    };
    if is_local_only(chosen) && !master.is_loopback() {
        return Err(DistError::config(format!(
            "other machines cannot reach {chosen}, but rank 0 is at {master}: name an interface (BURN_DIST_IFNAME); \
             this machine has {}",
            list(interfaces)
        )));
    }
    Ok(chosen)
}

/// Where rank 0 listens, out of the `addresses` that its name has: one of this machine.
///
/// # Errors
/// Rank 0's name means this machine only to itself, while the job has ranks elsewhere.
pub(crate) fn own(identity: &Identity, addresses: &[SocketAddr]) -> Result<SocketAddr> {
    own_of(&all()?, identity, addresses)
}

fn own_of(interfaces: &[Interface], identity: &Identity, addresses: &[SocketAddr]) -> Result<SocketAddr> {
    let Identity { master_addr, master_port, rank, local_world_size, .. } = identity;
    let is_ours = |address: &SocketAddr| {
        let ip = address.ip().to_canonical();
        ip.is_loopback() || interfaces.iter().any(|one| one.address == ip)
    };
    let Some(first) = addresses.first() else {
        return Err(DistError::config(format!("rank 0's name {master_addr} has no address")));
    };
    let ours = addresses.iter().filter(|address| is_ours(address));
    let Some(address) =
        ours.clone().find(|address| !address.ip().is_loopback()).or_else(|| ours.clone().next())
    else {
        // An address that leads here without being this machine's: a service's, a translated one.
        return Ok(SocketAddr::new(route_to(*first)?, *master_port));
    };
    // A machine that knows its own name as 127.0.1.1 (Debian) would wait where nobody else can come.
    let is_meant = master_addr.parse::<IpAddr>().is_ok() || master_addr == "localhost";
    let is_one_machine = *local_world_size == Some(rank.world_size().count() as u32);
    if address.ip().is_loopback() && !is_meant && !is_one_machine {
        return Err(DistError::config(format!(
            "on this machine {master_addr} means {}, where ranks of other machines cannot come: give rank 0's address \
             (BURN_DIST_MASTER_ADDR); this machine has {}",
            address.ip(),
            list(interfaces)
        )));
    }
    Ok(*address)
}

/// This machine's address on the way to `target`. Nothing is sent: connecting a UDP socket only asks the routing table.
fn route_to(target: SocketAddr) -> Result<IpAddr> {
    let ask = || {
        let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    ask().map_err(DistError::io(format!("find the way to {target}")))
}

/// Whether an address means something only inside this machine or on one cable.
fn is_local_only(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified(),
        // Link-local addresses need the name of an interface, which differs from machine to machine.
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

fn list(interfaces: &[Interface]) -> String {
    let mut out = String::new();
    for Interface { name, address } in interfaces {
        let comma = if out.is_empty() { "" } else { ", " };
        // A String takes everything.
        let _ = write!(out, "{comma}{name} {address}");
    }
    if out.is_empty() { "none".to_owned() } else { out }
}

/// `eth` or `eth,ib`: names that begin so. `=eth0`: exactly these. `^docker,lo`: all others; `^=docker0` too.
struct Pattern<'a> {
    but: bool,
    exact: bool,
    names: Vec<&'a str>,
}

impl<'a> Pattern<'a> {
    fn parse(text: &'a str) -> Self {
        let (but, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (exact, text) = text.strip_prefix('=').map_or((false, text), |rest| (true, rest));
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        Self { but, exact, names }
    }

    fn fits(&self, name: &str) -> bool {
        let named =
            self.names.iter().any(|one| if self.exact { name == *one } else { name.starts_with(one) });
        named != self.but
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::{Rank, WorldSize};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn machine() -> Vec<Interface> {
        [
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("eth0", "10.0.0.5"),
            ("eth1", "192.168.7.5"),
            ("eth1", "fe80::1"),
            ("eth1", "fd00::5"),
            ("lo", "::1"),
        ]
        .map(|(name, address)| Interface { name: name.to_owned(), address: ip(address) })
        .to_vec()
    }

    fn chosen(route: &str, master: &str, pattern: Option<&str>) -> Result<IpAddr> {
        choose(&machine(), ip(route), ip(master), pattern)
    }

    #[test]
    fn the_way_to_rank_0_unless_said_otherwise() {
        assert_eq!(chosen("10.0.0.5", "10.0.0.1", None).unwrap(), ip("10.0.0.5"));
        assert_eq!(chosen("127.0.0.1", "127.0.0.1", None).unwrap(), ip("127.0.0.1"));
        assert_eq!(chosen("::ffff:10.0.0.5", "::ffff:10.0.0.1", None).unwrap(), ip("10.0.0.5"));
        for (pattern, address) in [
            ("eth", "10.0.0.5"),
            ("=eth1", "192.168.7.5"),
            ("eth1,eth0", "10.0.0.5"),
            ("^eth0,lo,docker", "192.168.7.5"),
            ("^=eth1,lo,docker0", "10.0.0.5"),
            ("docker", "172.17.0.1"),
        ] {
            assert_eq!(chosen("10.0.0.5", "10.0.0.1", Some(pattern)).unwrap(), ip(address), "{pattern}");
        }
        // Of rank 0's family, if the interface has one.
        assert_eq!(chosen("fd00::9", "fd00::1", Some("eth1")).unwrap(), ip("fd00::5"));
    }

    #[test]
    fn what_others_cannot_reach_is_refused_with_what_there_is() {
        for (route, pattern) in [("10.0.0.5", Some("lo")), ("127.0.0.1", None), ("10.0.0.5", Some("=eth"))] {
            let error = chosen(route, "10.0.0.1", pattern).unwrap_err().to_string();
            assert!(error.contains("eth0 10.0.0.5, eth1 192.168.7.5"), "{error}");
        }
        let error = chosen("10.0.0.5", "10.0.0.1", Some("lo")).unwrap_err().to_string();
        assert!(error.contains("other machines cannot reach 127.0.0.1"), "{error}");
        assert!(chosen("fe80::1", "fd00::1", None).is_err());
    }

    fn main_of(master_addr: &str, local_world_size: Option<u32>) -> Identity {
        Identity {
            rank: Rank::new(0, WorldSize::new(4).unwrap()).unwrap(),
            local_rank: None,
            local_world_size,
            master_addr: master_addr.to_owned(),
            master_port: 9,
            generation: 0,
            source: "test",
        }
    }

    #[test]
    fn rank_0_listens_where_others_can_come() {
        let own = |name: &str, local_size, addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|address| SocketAddr::new(ip(address), 9)).collect();
            own_of(&machine(), &main_of(name, local_size), &addresses).map(|address| address.ip())
        };
        assert_eq!(own("node", None, &["10.0.0.5"]).unwrap(), ip("10.0.0.5"));
        assert_eq!(own("node", None, &["127.0.1.1", "10.0.0.5"]).unwrap(), ip("10.0.0.5"));
        assert_eq!(own("localhost", None, &["::1", "127.0.0.1"]).unwrap(), ip("::1"));
        assert_eq!(own("127.0.0.1", None, &["127.0.0.1"]).unwrap(), ip("127.0.0.1"));
        // Debian's name for itself: good for one machine only.
        let error = own("node", None, &["127.0.1.1"]).unwrap_err().to_string();
        assert!(error.contains("node means 127.0.1.1") && error.contains("eth0 10.0.0.5"), "{error}");
        assert!(own("node", Some(2), &["127.0.1.1"]).is_err());
        assert_eq!(own("node", Some(4), &["127.0.1.1"]).unwrap(), ip("127.0.1.1"));
        assert!(own("node", None, &[]).is_err());
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        assert!(all().unwrap().iter().any(|one| one.address.is_loopback()));
        assert_eq!(route_to("127.0.0.1:9".parse().unwrap()).unwrap(), ip("127.0.0.1"));
    }
}
