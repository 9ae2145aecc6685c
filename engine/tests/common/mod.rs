//! Runs a test's future in the world of its build: tokio, or a simulation in which nothing fails.

/// Runs `future` to its end.
pub fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    #[cfg(not(madsim))]
    return tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    #[cfg(madsim)]
    {
        let runtime = madsim::runtime::Runtime::new();
        runtime.add_simulator::<cutwater_io::sim::Env>();
        runtime.block_on(future)
    }
}
