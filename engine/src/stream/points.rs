//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point BARRIER_SENT = "stream.barrier_sent": "a task has sent a barrier on and has not snapshotted its own state";
    point SOURCE_BEFORE_ACK = "stream.source.before_ack": "a source has fixed its positions, nobody knows";
    point SINK_BEFORE_STAGE = "stream.sink.before_stage": "the output of an epoch is closed, not staged";
    point SINK_AFTER_STAGE = "stream.sink.after_stage": "output is staged, not acknowledged";
    point SINK_BEFORE_COMMIT = "stream.sink.before_commit": "the checkpoint is durable, its output is not committed";
    point SINK_AFTER_COMMIT = "stream.sink.after_commit": "a transaction is committed, nobody knows";
    point SINK_BEFORE_DELETE = "stream.sink.before_delete": "a transaction is committed, its staged copies are still there";
    point SINK_BEFORE_RECOMMIT = "stream.sink.before_recommit": "a restored sink is about to commit what it was handed";
    buggify COMMIT_LATE = "stream.sink.commit_late": "a sink waits before it commits output of a durable checkpoint";
    sometimes ALIGNED_BLOCKED = "stream.aligned_blocked": "a snapshot was taken after a channel had been blocked for alignment";
    sometimes ALIGNMENT_SUPERSEDED = "stream.alignment_superseded": "a newer barrier ended an unfinished alignment";
    sometimes RECOMMITTED = "stream.sink.recommitted": "a transaction was committed at restore";
    sometimes RECOMMIT_FOUND = "stream.sink.recommit_found": "a transaction handed over at restore was committed already";
    sometimes RESTAGED = "stream.sink.restaged": "a transaction was staged again because its staging had not ended at the next barrier";
    sometimes DELETE_DEFERRED = "stream.sink.delete_deferred": "committed output stayed staged because an open checkpoint named it";
    sometimes TIMER_FIRED = "stream.timer_fired": "a timer of event time fired";
    sometimes LATE_DROPPED = "stream.late_dropped": "a record came after its window had closed";
    sometimes SOURCE_RESUMED = "stream.source.resumed": "a source went on from a restored position";
}
