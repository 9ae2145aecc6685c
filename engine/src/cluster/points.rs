//! Points of this module; see [`cutwater_io::points`].

cutwater_io::points! {
    point TASKS_ENDED = "worker.tasks_ended": "the tasks of an attempt have ended, others may be about to start";
    point TASKS_STARTED = "worker.tasks_started": "the tasks of an attempt were started";
    sometimes LEADER_SILENT = "worker.leader_silent": "a worker gave up a leader that had fallen silent";
}
