//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point BEFORE_REGISTER = "tables.before_register": "a node is about to change the register of the cluster";
    point AFTER_REGISTER = "tables.after_register": "a change of the register is durable; nobody has acted on it yet";
    point CLUSTER_CHANGED = "tables.cluster_changed": "a table is made or dropped or a cut announced, and the client does not know yet";
    point BEFORE_PERSIST = "tables.before_persist": "entries are about to be written to the log of a copy";
    point PERSISTED = "tables.persisted": "entries are durable in a copy, and nobody was told";
    point ROWS_INSTALLED = "tables.rows_installed": "a learner has written rows";
    point APPLIED = "tables.applied": "an entry is applied to the rows, and who waits for it was not answered";
    point OPENED = "tables.opened": "a primary may take requests, and has not marked the node's cut yet";
    point MARKED = "tables.marked": "a mark is on its way to the log";
    point DECIDER_PREPARED = "tables.decider_prepared": "the decider has prepared, and the others are about to be asked";
    point BEFORE_DECIDE = "tables.before_decide": "all have prepared, and the decider was not asked yet";
    sometimes REGISTER_CONTENDED = "tables.register_contended": "two nodes changed the register at once";
    sometimes PRIMARY_OPENED = "tables.primary_opened": "a primary opened";
    sometimes TAKES_OVER = "tables.takes_over": "a backup asked for the place of its primary";
    sometimes PREPARED_INHERITED = "tables.prepared_inherited": "a primary opened with transactions that were prepared before";
    sometimes LEARNER_BY_LOG = "tables.learner_taken_in": "a primary asked for a learner to be a backup";
    sometimes LEARNED_ROWS = "tables.learned_rows": "a learner has taken all rows";
    sometimes LOG_TRIMMED = "tables.log_trimmed": "the log of a copy was shortened";
    sometimes TAIL_CUT = "tables.tail_cut": "entries were removed from the log of a backup that its new primary does not have";
    sometimes CONFLICT = "tables.conflict": "a transaction was refused because of another";
    sometimes OVERLOADED = "tables.overloaded": "a copy refused a question because too many wait";
    sometimes OUTCOME_UNKNOWN = "tables.outcome_unknown": "near did not learn the outcome of a transaction";
    sometimes SETTLED_COMMIT = "tables.settled_commit": "a decider committed a transaction that near had left";
    sometimes SETTLED_ABORT = "tables.settled_abort": "a decider aborted a transaction that near had left";
    sometimes CUT_BY_MESSAGE = "tables.cut_by_message": "a node started a cut because a message carried it, before it had read of it";
    sometimes CUT_BY_REGISTER = "tables.cut_by_register": "a node started a cut because the register announced it";
    sometimes CUT_GIVEN_UP = "tables.cut_given_up": "a cut was given up";
    sometimes CUT_STARTED = "tables.cut_started": "a cut was started everywhere";
    sometimes ANSWER_HELD = "tables.answer_held": "an answer to a client was held back until a cut ended";
    buggify MESSAGE_LATE = "tables.message_late": "a node holds back a message to another for a while";
}
