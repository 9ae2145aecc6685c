//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point SNAPSHOT_BEFORE_LINKS = "state.snapshot.before_links": "the barrier was sent on, the store is not yet linked";
    point SNAPSHOT_AFTER_LINKS = "state.snapshot.after_links": "the store is linked, nothing is uploaded";
    point UPLOAD_BETWEEN_FILES = "state.upload.between_files": "a file of a snapshot is uploaded, others may not be";
    point UPLOAD_BEFORE_ACK = "state.upload.before_ack": "all files of a snapshot are uploaded, nobody knows";
    point RESTORE_AFTER_DOWNLOAD = "state.restore.after_download": "a snapshot is downloaded, its store is not open";
    point RESTORE_CLIPPING = "state.restore.clipping": "some of the keys of a snapshot are copied into the new store";
    point RESTORE_AFTER_CLIP = "state.restore.after_clip": "all keys are copied, the source stores are still there";
    point RESTORE_DONE = "state.restore.done": "the state is restored, its task does not run yet";
    point RESTORE_REPLAYING = "state.restore.replaying": "a segment of a log is applied, others may not be";
    point LOG_UPLOADED = "state.log.uploaded": "changes are in the object store, nobody knows";
    sometimes LOG_UPLOADED_EARLY = "state.log.uploaded_early": "changes were uploaded that no checkpoint had asked for";
    sometimes LOG_TRUNCATED = "state.log.truncated": "the log before a materialisation was let go of";
    sometimes NEVER_NAMED = "state.log.never_named": "an object that no acknowledgement had named was deleted, as nothing needed it";
    sometimes MATERIALISED = "state.materialised": "a store was uploaded as the base of checkpoints to come";
    sometimes MATERIALISED_UNDER_LOAD = "state.materialised.under_load": "the state was changed while its store was being materialised";
    sometimes REPLAYED = "state.log.replayed": "a restore applied a log to its base";
    sometimes REPLAYED_RESCALED = "state.log.replayed_rescaled": "a log was applied to the state of other key groups than it was written for";
    sometimes EVICTED = "state.cache.evicted": "hot values were written and let go of because the cache was full";
    sometimes RESCALED = "state.rescaled": "state was restored into other ranges of key groups";
    sometimes REUSED = "state.upload.reused": "an incremental snapshot referenced a file that was already uploaded";
    sometimes MERGED = "state.upload.merged": "small files of a snapshot were uploaded as one object";
    sometimes SEGMENT_REUSED = "state.upload.segment_reused": "an incremental snapshot referenced a segment of an object of several files";
    sometimes WASTEFUL = "state.upload.wasteful": "live segments are uploaded again because most of their object is garbage";
    sometimes BASE_NARROWED = "state.base_narrowed": "a confirmation came after the next snapshot had begun";
    sometimes UPLOAD_RETRIED = "state.blob.retried": "a failed request to the object store was repeated";
    buggify PUT_TWICE = "state.blob.put_twice": "a put that was answered is repeated";
    buggify RETRY_LATE = "state.blob.retry_late": "a failed request is repeated after the longest pause";
    sometimes UPLOAD_LANDED = "state.blob.landed": "a put that had answered with an error turned out to have been applied";
    sometimes UPLOAD_DAMAGED = "state.upload.damaged": "a local file was not uploaded because it is not what was written";
    sometimes ABORTED_CLEANED = "state.upload.cleaned": "the uploads of an aborted checkpoint were deleted";
}
