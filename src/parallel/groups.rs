//! The ranks among which units are sharded, and those that hold the same shard.

use crate::comm::solo::Solo;
use crate::comm::{Action, Collective, Op, Pending, Request};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The groups of ranks of a run. Units are sharded over all ranks, or over the ranks of one host. In the second case each
/// host has a whole set of shards (a replica), and only reduced gradients pass between hosts. This is PyTorch FSDP's
/// hybrid sharding (`HYBRID_SHARD`; arXiv 2304.11277, section 3.2.2).
#[derive(Clone)]
pub struct Groups {
    /// All ranks of the run.
    pub all: Arc<dyn Collective>,
    /// The ranks among which a unit is sharded.
    pub shard: Arc<dyn Collective>,
    /// The ranks of all hosts with the same shard as this one, in the order of ranks; `None` if no other rank has it.
    pub replicas: Option<Arc<dyn Collective>>,
}

impl From<Arc<dyn Collective>> for Groups {
    /// Shards over all ranks.
    fn from(all: Arc<dyn Collective>) -> Self {
        Groups { shard: Arc::clone(&all), all, replicas: None }
    }
}

impl Groups {
    /// Shards over the ranks of each host. All ranks call it.
    ///
    /// # Errors
    /// Exit 2, the same on all ranks, if hosts have different numbers of ranks; a dead or late rank.
    pub fn within_hosts(all: Arc<dyn Collective>) -> Result<Self> {
        let here = all.local_world();
        let mut extremes = [here as f64, -(here as f64)];
        all.all_reduce_f64(&mut extremes, Op::Max, "ranks on each host")?;
        let (most, least) = (extremes[0] as usize, -extremes[1] as usize);
        if most != least {
            let text = format!(
                "parallel.shard_within = \"host\" needs the same number of ranks on every host, and hosts have from \
                 {least} to {most}: start as many on each, or set shard_within = \"world\""
            );
            return Err(Error::input(text).shared());
        }
        if here == all.world() {
            return Ok(all.into());
        }
        let shard = all.split(all.host_leader(), all.local_rank())?;
        let replicas = all.split(all.local_rank(), all.rank())?;
        Ok(Groups { all, shard, replicas: Some(replicas) })
    }

    /// Returns stand-ins that do not communicate ([`Solo::dry_run`]).
    pub fn dry_run(&self) -> Self {
        let alone = |comm: &Arc<dyn Collective>| Arc::new(Solo::dry_run(comm.as_ref())) as Arc<dyn Collective>;
        Groups { all: alone(&self.all), shard: alone(&self.shard), replicas: self.replicas.as_ref().map(alone) }
    }

    /// Whether this rank's shard is the one that counts in sums over all ranks.
    pub fn is_first_replica(&self) -> bool {
        self.replicas.as_ref().is_none_or(|replicas| replicas.rank() == 0)
    }

    /// Starts reductions: reduce-scatters among the ranks that share a set of shards, all-reduces over all ranks.
    ///
    /// # Errors
    /// As [`Collective::start`].
    pub fn start(&self, requests: &[Request]) -> Result<Pending> {
        if self.replicas.is_none() {
            return self.all.start_group(requests);
        }
        let (scattered, reduced): (Vec<Request>, Vec<Request>) =
            requests.iter().partition(|request| request.action == Action::ReduceScatter);
        let (scattered, reduced) = (self.shard.start_group(&scattered)?, self.all.start_group(&reduced)?);
        Ok(Pending::new(move || scattered.wait().and_then(|()| reduced.wait())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use crate::error::Kind;
    use std::thread;
    use std::time::Duration;

    /// (rank, world) of the shard group and of the replicas, by rank; or the error.
    fn made(world: usize, per_host: usize) -> Vec<Result<[(usize, usize); 2]>> {
        let ends = threads::hosts(world, per_host, Duration::from_secs(20));
        let ranks = ends.into_iter().map(|all| {
            thread::spawn(move || {
                let groups = Groups::within_hosts(all)?;
                let place = |comm: &Arc<dyn Collective>| (comm.rank(), comm.world());
                let replicas = groups.replicas.as_ref().map_or((0, 1), place);
                assert_eq!(groups.is_first_replica(), replicas.0 == 0);
                assert_eq!(groups.shard.local_world(), groups.shard.world());
                // A rank that leaves ends the waits of the others.
                groups.all.barrier("the end")?;
                Ok([place(&groups.shard), replicas])
            })
        });
        ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
    }

    #[test]
    fn each_host_has_all_shards() {
        let places: Vec<_> = made(6, 2).into_iter().map(Result::unwrap).collect();
        let wanted = |rank: usize| [(rank % 2, 2), (rank / 2, 3)];
        assert_eq!(places, (0..6).map(wanted).collect::<Vec<_>>());
        assert_eq!(made(3, 3)[2].as_ref().unwrap(), &[(2, 3), (0, 1)]);
        assert_eq!(made(2, 1)[1].as_ref().unwrap(), &[(0, 1), (1, 2)]);
    }

    #[test]
    fn unequal_hosts_are_refused_on_all_ranks() {
        for error in made(3, 2).into_iter().map(Result::unwrap_err) {
            assert!(error.kind() == Kind::Input && error.is_shared(), "{error}");
            assert!(error.to_string().contains("hosts have from 1 to 2: start as many on each"), "{error}");
        }
    }
}
