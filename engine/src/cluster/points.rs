//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point TASKS_ENDED = "worker.tasks_ended": "the tasks of an attempt have ended, others may be about to start";
    point TASKS_STARTED = "worker.tasks_started": "the tasks of an attempt were started";
    sometimes LEADER_SILENT = "worker.leader_silent": "a worker gave up a leader that had fallen silent";
    point BEFORE_TAKEOVER = "coordinator.before_takeover": "a candidate is about to write a higher epoch";
    point AFTER_TAKEOVER = "coordinator.after_takeover": "the higher epoch is durable; the new leader has done nothing yet";
    point BEFORE_DEPLOY = "coordinator.before_deploy": "the checkpoint to restore is verified; no task was told yet";
    sometimes TOOK_OVER = "coordinator.took_over": "a candidate took over from another leader";
    sometimes DEPOSED = "coordinator.deposed": "a leader stepped down";
    sometimes STOPPING_RESTORED = "coordinator.stopping_restored": "an attempt started only to commit what a savepoint had staged";
    sometimes STARTED_AGAIN = "coordinator.started_again": "a user brought an ended job back";
    sometimes RESTORED = "coordinator.restored": "an attempt started from a checkpoint";
    sometimes RESTORED_AFTER_ABORT = "coordinator.restored_after_abort": "an attempt was lost while a checkpoint was under way";
    sometimes WORKER_OVERDUE = "coordinator.worker_overdue": "a worker was given up because its tasks did not start in time";
    sometimes WORKER_SILENT = "coordinator.worker_silent": "a worker was given up because it was silent";
    sometimes SCALED_UP = "coordinator.scaled_up": "an attempt has a higher parallelism than the one before";
    sometimes SCALED_DOWN = "coordinator.scaled_down": "an attempt has a lower parallelism than the one before";
    buggify IMPATIENT = "coordinator.impatient": "a candidate gives a silent leader an eighth of the lease";
    buggify APPEND_LATE = "coordinator.append_late": "a leader writes a change of the register three leases late";
    buggify MESSAGE_LATE = "coordinator.message_late": "a coordinator holds back a message for a while";
    buggify SWEEP_NOW = "coordinator.sweep_now": "a leader sweeps for orphans at once";
    buggify HEARTBEAT_LATE = "worker.heartbeat_late": "a worker lets a heartbeat or two fall out";
    sometimes RESTORE_RETRIED = "coordinator.restore_retried": "a retained checkpoint could not be read or verified at once";
}
