//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point BEFORE_METADATA = "checkpoint.before_metadata": "all tasks have acknowledged; nothing is written yet";
    point AFTER_METADATA = "checkpoint.after_metadata": "the metadata is durable; the register does not name it yet";
    point BEFORE_APPEND = "log.before_append": "a change of the register is about to be written";
    point AFTER_APPEND = "log.after_append": "a change of the register is durable; nobody was told yet";
    point BEFORE_DELETE = "checkpoint.before_delete": "files are unreferenced in the register and not deleted yet";
    point AFTER_RESTORE_READ = "checkpoint.after_restore_read": "a checkpoint was read and verified; nothing is deployed from it yet";
    sometimes APPEND_RESOLVED_LANDED = "log.resolved_landed": "a change of unknown outcome turned out to have landed";
    sometimes APPEND_RESOLVED_LOST = "log.resolved_lost": "a change of unknown outcome turned out to have lost against another";
    sometimes APPEND_SUPERSEDED = "log.superseded": "a change was created and not the newest any more";
    sometimes EXPIRED = "checkpoint.expired": "a checkpoint was not acknowledged in time";
    sometimes SAVEPOINT_EXPIRED = "checkpoint.savepoint_expired": "a savepoint was not acknowledged in time";
    sometimes SAVEPOINT_COMPLETED = "checkpoint.savepoint_completed": "a savepoint is listed, and the job runs on";
    sometimes STOPPED = "checkpoint.stopped": "the savepoint with which a job ends is in the register";
    sometimes CLAIMED_DELETED = "checkpoint.claimed_deleted": "what a job was started from was its own, and went";
    sometimes ABORTED = "checkpoint.aborted": "a checkpoint was aborted";
    sometimes LATE_ACK = "checkpoint.late_ack": "shared files of a checkpoint that was already aborted were registered";
    never CONDEMNED_REFERENCE = "checkpoint.condemned_reference": "a task referenced a file that was already given up";
    never REFUSED = "checkpoint.refused": "a task acknowledged what cannot be its part of a checkpoint";
    sometimes SWEPT = "checkpoint.swept": "the sweeper deleted an orphan";
}
