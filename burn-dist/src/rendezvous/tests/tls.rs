//! Jobs under TLS: members of one authority come together; those without its certificate do not, and are no trouble.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::{
    config::TlsFiles,
    transport::poll::{is_for_later, wait},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Files of a member that trusts `trusts` and was certified by `certified_by` under `name`.
fn files(dir: &Path, trusts: &Authority, certified_by: &Authority, name: &str) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, certified_by).unwrap();
    let write = |file: &str, text: String| {
        let path = dir.join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: write("ca.pem", trusts.pem()),
        certificate: write("cert.pem", certificate.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}

fn member_of(dir: &TempDir, place: &str, trusts: &Authority, certified_by: &Authority, name: &str) -> Config {
    let dir = dir.path().join(place);
    std::fs::create_dir(&dir).unwrap();
    // Certificates prove membership: no secret is needed.
    Config { trust: Trust::LoopbackOnly, tls: Some(files(&dir, trusts, certified_by, name)), ..config() }
}

#[test]
fn a_job_forms_under_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let said = Said::default();
    let meetings = job(3, &member_of(&dir, "a", &ours, &ours, "burn-dist"), &said);
    check_full_mesh(meetings, 2);
    assert_eq!(said.all(), "");
}

/// Much in both directions at once, in pieces that fit nothing; what is decrypted and not taken yet is known of.
#[test]
fn bulk_goes_both_ways_under_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let meetings = job(2, &member_of(&dir, "a", &ours, &ours, "burn-dist"), &Said::default());
    let bytes_of =
        |rank: u32| (0..8_000_003_u32).map(|at| (at.wrapping_mul(2 * rank + 3) >> 7) as u8).collect();
    let bytes: [Vec<u8>; 2] = [bytes_of(0), bytes_of(1)];
    each(meetings, |mut meeting| {
        let me = meeting.rank.index();
        let id = LinkId { peer: 1 - me as u32, stream: 0 };
        let (_, mut pipe) = meeting.connect_links(&[id], soon()).unwrap().pop().unwrap();
        let (mut sent, mut got, mut kept_some) = (0, Vec::<u8>::new(), false);
        let mut piece = vec![0; 5001];
        while sent < bytes[me].len() || pipe.holds_bytes() || got.len() < bytes[1 - me].len() {
            let mut moved = false;
            if sent < bytes[me].len() {
                let end = (sent + 70_001).min(bytes[me].len());
                let middle = sent + (end - sent) / 3;
                let parts = [&bytes[me][sent..middle], &bytes[me][middle..end]];
                match pipe.write(&parts.map(std::io::IoSlice::new)) {
                    Ok(written) => (sent, moved) = (sent + written, true),
                    Err(error) => assert!(is_for_later(&error), "{error}"),
                }
            } else if let Err(error) = pipe.flush() {
                assert!(is_for_later(&error), "{error}");
            }
            match pipe.read(&mut piece) {
                Ok(read) => {
                    assert_ne!(read, 0);
                    got.extend(&piece[..read]);
                    moved = true;
                    kept_some |= pipe.has_bytes();
                }
                Err(error) => {
                    assert!(is_for_later(&error), "{error}");
                    assert!(!pipe.has_bytes());
                }
            }
            if !moved {
                use rustix::event::{PollFd, PollFlags};
                let fd = pipe.fd().unwrap();
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, sent < bytes[me].len() || pipe.holds_bytes());
                wait(&mut [PollFd::from_borrowed_fd(fd, flags)], Duration::from_secs(60)).unwrap();
            }
        }
        assert!(got == bytes[1 - me] && kept_some);
        // An end without a farewell is an end.
        if me == 0 {
            return;
        }
        let patience = Patience::until(soon());
        let error = receive(pipe.as_mut(), &mut [0], patience).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn strangers_are_turned_away_under_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority(), authority());
    let said = Said::default();
    let (listener, port) = listen();
    let member = member_of(&dir, "member", &ours, &ours, "burn-dist");
    thread::scope(|scope| {
        let main = start(scope, identity(0, 2, port), member.clone(), Some(listener), &said);
        let refused = |config: Config| {
            start(scope, identity(1, 2, port), config, None, &said).join().unwrap().err().unwrap().to_string()
        };
        // Its certificate is another authority's.
        let foreign = refused(member_of(&dir, "foreign", &ours, &theirs, "burn-dist"));
        assert!(foreign.contains("received fatal alert"), "{foreign}");
        // It does not know ours.
        let lost = refused(member_of(&dir, "lost", &theirs, &ours, "burn-dist"));
        assert!(lost.contains("invalid peer certificate"), "{lost}");
        // It uses no TLS at all.
        let plain = refused(config());
        assert!(plain.contains("only one side uses TLS"), "{plain}");
        // Silence, and noise.
        let silent: Vec<_> =
            (0..50).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        let begin = Instant::now();
        let other = start(scope, identity(1, 2, port), member, None, &said);
        drop((main.join().unwrap().unwrap(), other.join().unwrap().unwrap()));
        assert!(begin.elapsed() < Duration::from_secs(30));
        drop(silent);
    });
}

/// A certificate of the right authority for something else does not make a rank 0.
#[test]
fn rank_0_must_carry_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let short = Timeouts { startup: Duration::from_millis(500), ..Timeouts::default() };
        let web = Config { timeouts: short, ..member_of(&dir, "web", &ours, &ours, "www.example.org") };
        let main = start(scope, identity(0, 2, port), web, Some(listener), &said);
        let member = member_of(&dir, "member", &ours, &ours, "burn-dist");
        let error = start(scope, identity(1, 2, port), member, None, &said).join().unwrap().err().unwrap();
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        assert!(main.join().unwrap().is_err());
    });
}

/// One who knows our authority but has no certificate at all.
#[test]
fn a_client_without_a_certificate_is_refused() {
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
    };
    use std::io::{Read, Write};

    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let said = Said::default();
    let (listener, port) = listen();
    let member = member_of(&dir, "member", &ours, &ours, "burn-dist");
    thread::scope(|scope| {
        let main = start(scope, identity(0, 2, port), member.clone(), Some(listener), &said);
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client =
            ClientConnection::new(Arc::new(client), ServerName::try_from("burn-dist").unwrap()).unwrap();
        let mut stream = StreamOwned::new(client, std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
        let hello = hello::Hello {
            purpose: hello::Purpose::Control,
            stream: 0,
            rank: 1,
            to: 0,
            world_size: 2,
            generation: 3,
            nonce: [0; 32],
        };
        let said_so = stream.write_all(&hello.encode()).and_then(|()| stream.read_exact(&mut [0; 1]));
        let error = said_so.unwrap_err().to_string();
        assert!(error.contains("CertificateRequired"), "{error}");
        let other = start(scope, identity(1, 2, port), member, None, &said);
        drop((main.join().unwrap().unwrap(), other.join().unwrap().unwrap()));
    });
}
