//! From words and variables to a communicator.

use std::{net::TcpListener, path::PathBuf, thread};

use crate::{
    communicator::Communicator,
    config::{Agreed, Config, Timeouts, TlsFiles, Trust},
    env::{self, Identity},
    error::{DistError, Result},
    rank::{Rank, WorldSize},
    rendezvous,
};

/// Settings of a communicator, said one by one: the last word counts.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    identity: Option<Identity>,
    config: Config,
}

impl Builder {
    /// Who this process is and where rank 0 is, rather than from a launcher's variables.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// From a launcher's variables (see [`crate::env`]) and `BURN_DIST_*`: who this process is, where rank 0 is, and
    /// settings. Without a launcher it is a job of one. Replaces all that was said before: to be called first.
    ///
    /// # Errors
    /// [`DistError::Config`] naming the variable that is missing, wrong, or unknown.
    pub fn from_env(self) -> Result<Self> {
        let identity = env::identity(&|name| std::env::var(name).ok())?;
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let config = Config::from_vars(&|name| std::env::var(name).ok(), names)?;
        Ok(Self { identity, config })
    }

    /// All settings at once.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What every rank must have alike.
    pub fn agreed(mut self, agreed: Agreed) -> Self {
        self.config.agreed = agreed;
        self
    }

    /// How long to wait for what.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// What proves that a process belongs to the job.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config.trust = trust;
        self
    }

    /// Mutual TLS 1.3.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.config.tls = Some(files);
        self
    }

    /// Where flight records go if nothing else was said.
    pub fn or_flight_dir(mut self, folder: PathBuf) -> Self {
        self.config.flight_dir.get_or_insert(folder);
        self
    }

    /// Whether somebody gave this process a rank: a launcher, or [`identity`](Self::identity).
    pub fn was_launched(&self) -> bool {
        self.identity.is_some()
    }

    /// What has been said so far.
    pub fn settings(&self) -> &Config {
        &self.config
    }

    /// Meets the other ranks and connects. A job of one, or of a process that no launcher started, meets nobody.
    ///
    /// # Errors
    /// [`DistError::Config`] for settings that cannot be followed; [`DistError::Rendezvous`] if the job does not form:
    /// who is missing, who is there twice, who disagrees and in what.
    pub fn connect(self) -> Result<Communicator> {
        let Self { identity, config } = self;
        match identity {
            Some(identity) if identity.rank.world_size() != WorldSize::ONE => {
                if identity.rank.is_main() {
                    let Identity { rank, master_addr, master_port, source, .. } = &identity;
                    let world_size = rank.world_size();
                    eprintln!(
                        "burn-dist: {world_size} ranks, said {source}; meeting at {master_addr}:{master_port}"
                    );
                }
                let meeting = rendezvous::meet(&identity, &config)?;
                Communicator::connect(&config, meeting)
            }
            _ => Ok(Communicator::single()),
        }
    }
}

/// A job inside this process.
pub(crate) fn local_mesh(world_size: WorldSize, config: &Config) -> Result<Vec<Communicator>> {
    if world_size == WorldSize::ONE {
        return Ok(vec![Communicator::single()]);
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(DistError::io("listen on loopback"))?;
    let port = listener.local_addr().map_err(DistError::io("listen on loopback"))?.port();
    let mut listener = Some(listener);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size.count() as u32)
            .filter_map(|index| Rank::new(index, world_size))
            .map(|rank| {
                let listener = listener.take();
                scope.spawn(move || {
                    let identity = Identity {
                        rank,
                        local_rank: None,
                        local_world_size: None,
                        master_addr: "127.0.0.1".into(),
                        master_port: port,
                        generation: 0,
                        source: "this process",
                    };
                    let meeting = rendezvous::meet_at(&identity, config, listener)?;
                    Communicator::connect(config, meeting)
                })
            })
            .collect();
        let join = |rank: thread::ScopedJoinHandle<'_, Result<Communicator>>| match rank.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        ranks.into_iter().map(join).collect()
    })
}
