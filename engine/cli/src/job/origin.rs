//! What a job is started from.

use clap::Args;
use cutwater_engine::checkpoint::job_state::ClaimMode;

/// What a job is started from.
#[derive(Args, Clone, Debug)]
pub(crate) struct From {
    /// A checkpoint or savepoint of the object store, by the path of its directory or its metadata in there.
    #[arg(long, value_name = "PATH")]
    from: Option<String>,
    /// Its files become the job's, which deletes them when it needs them no more; without this they stay as they are.
    #[arg(long, requires = "from")]
    claim: bool,
    /// State of vertices that the job does not have is left behind; without this, that is refused.
    #[arg(long)]
    pub(crate) allow_non_restored: bool,
}

impl From {
    /// The path in the object store.
    pub(crate) fn path(&self) -> Option<String> {
        self.from.as_ref().map(|path| path.trim_matches('/').to_owned())
    }

    /// Whose it is from then on.
    pub(crate) fn claim(&self) -> ClaimMode {
        match self.claim {
            true => ClaimMode::Claim,
            false => ClaimMode::NoClaim,
        }
    }
}
