//! The oracles of a running job, told of each change of an object at the moment it takes effect.

use std::sync::{Arc, Mutex, PoisonError};

use cutwater_engine::checkpoint::layout::{Layout, Object};
use cutwater_io::sim::Env;
use cutwater_io::sim::objects::ObjectChange;
use cutwater_sim::scenario::Violation;
use cutwater_sim::world::World;

use super::attempts::{AttemptOracle, Passed, Register};
use super::hoard::Hoard;
use super::job::JobOracle;

/// See the module.
#[derive(Debug)]
pub struct Oracles {
    /// What objects tell.
    pub job: JobOracle,
    attempts: AttemptOracle,
    /// If nothing disturbs the plan.
    hoard: Option<Hoard>,
}

impl Oracles {
    /// Watches the job with these objects from before the first of them.
    pub fn watch(world: &World, layout: Layout) -> Arc<Mutex<Oracles>> {
        let oracles = Arc::new(Mutex::new(Oracles {
            job: JobOracle::new(layout, world.knob("keep_versions")),
            attempts: AttemptOracle::new(
                world.count("coordinator"),
                world.knob("tolerable_failures"),
                crate::cluster::max_concurrent(world) as u64,
            ),
            hoard: crate::cluster::is_undisturbed(world).then(|| Hoard::new(world.knob("retained"))),
        }));
        let (told, world_of_watch) = (oracles.clone(), world.clone());
        world.env().objects().observe(Box::new(move |event| {
            let env = world_of_watch.env();
            // What is in the object store is what a job goes on from: a crash is another one after each change there.
            env.owed().more("objects", event.key.as_bytes());
            let mut oracles = told.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(violation) = oracles.changed(env, &event.key, &event.change) {
                world_of_watch.object(violation);
            }
        }));
        oracles
    }

    fn changed(&mut self, env: &Env, key: &str, change: &ObjectChange) -> Result<(), Violation> {
        let ObjectChange::Put(bytes) = change else { return self.job.delete(key) };
        self.job.put(key, bytes)?;
        match self.job.layout().parse(key) {
            Some(Object::Metadata { checkpoint }) => {
                self.attempts.written(checkpoint, Passed::so_far(env));
                Ok(())
            }
            Some(Object::Log { .. }) => {
                if let Some(hoard) = &mut self.hoard {
                    hoard.look(&self.job)?;
                }
                self.look(env)
            }
            _ => Ok(()),
        }
    }

    /// Judges what no object tells.
    ///
    /// # Errors
    /// What does not hold any more.
    pub fn look(&mut self, env: &Env) -> Result<(), Violation> {
        let register = self.job.state().map(|state| Register {
            epoch: state.epoch,
            newest: state.latest().map(|checkpoint| checkpoint.id),
        });
        self.attempts.look(Passed::so_far(env), register.unwrap_or_default())
    }
}
