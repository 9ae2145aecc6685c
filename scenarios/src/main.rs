//! The binary `cutwater`: `cutwater --help`.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cutwater_sim::cli::main(cutwater_scenarios::ALL, cutwater_engine::points::all())
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}
