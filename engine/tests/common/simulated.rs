//! A simulation of one machine with a disk on which nothing fails by itself.

use std::sync::Arc;
use std::time::Duration;

use cutwater_io::sim::{Config, Env, Key, Quiet};

/// Runs `future` in the world of a seed, on a thread of its own, as a thread simulates once.
#[expect(clippy::disallowed_methods, reason = "each run is on a fresh thread")]
pub fn simulate<T: Send + 'static>(seed: u64, future: impl AsyncFnOnce(Arc<Env>) -> T + Send + 'static) -> T {
    let run = move || {
        let mut runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.add_simulator::<Env>();
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.block_on(async move {
            let env = Env::install(Config {
                key: Key::root(seed),
                record: false,
                disk: Default::default(),
                net: Default::default(),
                objects: Default::default(),
                classify: |_| "other",
                injector: Box::new(Quiet),
            });
            future(env).await
        })
    };
    std::thread::spawn(run).join().unwrap()
}
