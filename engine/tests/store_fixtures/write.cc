// Directories written by RocksDB itself, one feature each: what the tests beside this file read.
//
//   write list                 names of the features
//   write NAME DIR             a directory with that feature
//   write killed DIR POINT N   a directory whose writer dies when it passes RocksDB's sync point POINT for the N-th time
//
// What is written depends on the name alone. Only when RocksDB compacts in the background it does not, and its files name random uuids,
// so two runs differ in bytes and agree in content. About one directory in two is left open, as a kill leaves it.
// DIR.journal tells what was to be written, a batch a line, and "ok" when it was acknowledged. (A checkpoint is of DIR.source.)
//
// Sync points are there in builds with assertions, as Debian's is.
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/utilities/transaction_db.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace rocksdb {
class SyncPoint {  // A declaration alone: the class is exported, and in no public header.
 public:
  static SyncPoint* GetInstance();
  void SetCallBack(const std::string&, const std::function<void(void*)>&);
  void EnableProcessing();
};
}  // namespace rocksdb
using namespace rocksdb;

static const std::vector<std::string> kNames = {
    "plain",    "sync",    "nowal",   "dbid",         "stats",      "universal", "bloom",    "fv2",      "families",
    "dropped",  "atomic",  "multiwal", "waltrack",    "recycle",    "rollover",  "blobs",    "filesum",  "ingest",
    "checkpoint", "defaults", "lz4",  "zstd",         "zlib",       "blobzstd",  "bloblz4", "blobzlib", "walzstd",  "partitioned", "hash",
    "merge",    "singledelete", "rangedelete", "twophase", "damage"};

static std::string feature, dir;
static Options options;
static std::vector<ColumnFamilyDescriptor> descriptors;
static std::vector<ColumnFamilyHandle*> families;
static DB* db;
static TransactionDB* transactions;
static FILE* journal;

static bool is_one_of(std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), feature) != names.end();
}

static void must(const Status& status, const char* what) {
  if (status.ok()) return;
  fprintf(stderr, "%s: %s: %s\n", feature.c_str(), what, status.ToString().c_str());
  _exit(2);
}

static uint64_t drawn = 88172645463325252ull;
static uint64_t below(uint64_t n) {
  drawn ^= drawn << 13, drawn ^= drawn >> 7, drawn ^= drawn << 17;
  return drawn % n;
}

static std::string key(uint64_t n) {
  std::string digits = std::to_string(n);
  return "key" + std::string(5 - digits.size(), '0') + digits;
}

// Text that no other value has, and that takes little room once it is packed.
static std::string value() {
  size_t length = below(10) < 3 ? 150 + below(900) : below(60);
  std::string text = std::to_string(below(1000000));
  while (text.size() < length) text += "abcdefghijklmnopqrstuvwxyz";
  return text.substr(0, std::max<size_t>(length, 1));
}

static void open() {
  families.clear();
  if (feature == "twophase") {
    must(TransactionDB::Open(options, TransactionDBOptions(), dir, descriptors, &families, &transactions), "open");
    db = transactions;
  } else {
    must(DB::Open(options, dir, descriptors, &families, &db), "open");
  }
}

static void close() {
  for (auto family : families) delete family;
  must(db->Close(), "close");
  delete db;
}

static void flush() { must(db->Flush(FlushOptions(), families), "flush"); }

static void write_batches(int count, const WriteOptions& how) {
  for (; count > 0; count--) {
    WriteBatch batch;
    std::string line;
    for (int changes = 1 + below(4); changes > 0; changes--) {
      ColumnFamilyHandle* family = families[below(families.size())];
      std::string k = key(below(200)), where = "\t" + family->GetName() + "\t" + k;
      if (below(5) == 0) {
        must(batch.Delete(family, k), "delete");
        line += "\tD" + where;
      } else if (feature == "merge" && below(2) == 0) {
        must(batch.Merge(family, k, value().substr(0, 20)), "merge");
      } else {
        std::string v = value();
        must(batch.Put(family, k, v), "put");
        line += "\tP" + where + "\t" + v;
      }
    }
    fprintf(journal, "%s\n", line.c_str());
    fflush(journal);
    must(db->Write(how, &batch), "write");
    fprintf(journal, "ok\n");
    fflush(journal);
  }
}

static BlockBasedTableOptions table_options() {
  BlockBasedTableOptions table;
  if (feature == "defaults") return table;
  table.checksum = kCRC32c;
  table.format_version = feature == "fv2" ? 2 : 5;
  table.block_size = 1024;
  if (is_one_of({"bloom", "partitioned"})) table.filter_policy.reset(NewBloomFilterPolicy(10));
  if (feature == "partitioned") {
    table.index_type = BlockBasedTableOptions::kTwoLevelIndexSearch;
    table.metadata_block_size = 256;
    table.partition_filters = true;
  }
  if (feature == "hash") {
    table.data_block_index_type = BlockBasedTableOptions::kDataBlockBinaryAndHash;
    table.index_block_restart_interval = 8;
  }
  return table;
}

static void choose_options() {
  options.create_if_missing = options.create_missing_column_families = true;
  options.info_log_level = FATAL_LEVEL;
  options.allow_fallocate = false;
  if (feature != "defaults") {
    options.compression = kNoCompression;
    options.target_file_size_base = 8 << 10;
    options.max_bytes_for_level_base = 32 << 10;
    options.level0_file_num_compaction_trigger = 2;
  }
  if (is_one_of({"blobs", "blobzstd", "bloblz4", "blobzlib", "filesum", "families", "checkpoint", "killed", "damage"})) {
    options.enable_blob_files = true;
    options.min_blob_size = 100;
    options.blob_file_size = 8 << 10;
    options.enable_blob_garbage_collection = true;
    options.blob_garbage_collection_age_cutoff = 0.5;
    options.blob_garbage_collection_force_threshold = 0.3;
  }
  // What is damaged is one table and one blob file, both behind a log.
  if (feature == "damage") options.disable_auto_compactions = true, options.blob_file_size = 1 << 20;
  if (is_one_of({"damage", "waltrack", "killed"})) options.track_and_verify_wals_in_manifest = true;
  if (feature == "atomic") options.atomic_flush = true;
  if (feature == "universal") options.compaction_style = kCompactionStyleUniversal;
  if (feature == "filesum") options.file_checksum_gen_factory = GetFileChecksumGenCrc32cFactory();
  if (feature == "dbid") options.write_dbid_to_manifest = true;
  if (feature == "stats") options.persist_stats_to_disk = true, options.stats_persist_period_sec = 1;
  if (feature == "rollover") options.max_manifest_file_size = 600;
  if (feature == "killed") options.max_manifest_file_size = 4000;
  if (feature == "lz4") options.compression = kLZ4Compression;
  if (feature == "zstd") options.compression = kZSTD;
  if (feature == "zlib") options.compression = kZlibCompression;
  if (feature == "blobzstd") options.blob_compression_type = kZSTD;
  if (feature == "bloblz4") options.blob_compression_type = kLZ4Compression;
  if (feature == "blobzlib") options.blob_compression_type = kZlibCompression;
  if (feature == "walzstd") options.wal_compression = kZSTD;
  if (feature == "recycle") {
    options.recycle_log_file_num = 2;
    options.wal_recovery_mode = WALRecoveryMode::kSkipAnyCorruptedRecords;  // In others it recycles none.
  }
  if (feature == "merge") {
    must(MergeOperator::CreateFromString(ConfigOptions(), "stringappend", &options.merge_operator), "operator");
  }
  options.table_factory.reset(NewBlockBasedTableFactory(table_options()));
  descriptors = {{"default", options}};
  if (is_one_of({"families", "dropped", "atomic", "multiwal", "killed", "damage"})) {
    descriptors.push_back({"one", options});
    descriptors.push_back({"two", options});
  }
}

// What each feature is about, behind some writes and before some more.
static void show_feature(const WriteOptions& how) {
  if (is_one_of({"blobs", "killed"})) must(db->CompactRange(CompactRangeOptions(), nullptr, nullptr), "compact");
  if (feature == "stats") sleep(3);
  if (feature == "singledelete") {
    for (int i = 0; i < 40; i++) must(db->Put(how, key(300 + i), value()), "put");
    flush();
    for (int i = 0; i < 20; i++) must(db->SingleDelete(how, key(300 + i)), "single delete");
    flush();
    for (int i = 20; i < 30; i++) must(db->SingleDelete(how, key(300 + i)), "single delete");
  }
  if (feature == "rangedelete") {
    must(db->DeleteRange(how, families[0], key(40), key(80)), "delete range");
    flush();
    write_batches(20, how);
    must(db->DeleteRange(how, families[0], key(100), key(110)), "delete range");
  }
  if (feature == "ingest") {
    SstFileWriter writer(EnvOptions(), options);
    must(writer.Open(dir + ".external"), "external file");
    for (int i = 0; i < 50; i++) must(writer.Put(key(80 + i), "ingested"), "external file");
    must(writer.Finish(), "external file");
    IngestExternalFileOptions ingestion;
    ingestion.move_files = true;
    must(db->IngestExternalFile({dir + ".external"}, ingestion), "ingest");
  }
  if (feature == "dropped") {
    must(db->DropColumnFamily(families[1]), "drop");
    delete families[1];
    families.erase(families.begin() + 1);
    ColumnFamilyHandle* three;
    must(db->CreateColumnFamily(options, "three", &three), "create");
    families.push_back(three);
  }
  if (feature == "multiwal") {
    close();
    options.avoid_flush_during_recovery = true;
    open();
    write_batches(30, how);
    close();
    open();
  }
  if (feature == "damage") {  // A second log: one family is flushed, the others need the first one yet.
    write_batches(30, how);
    must(db->Flush(FlushOptions(), families[1]), "flush");
  }
  if (feature == "twophase") {
    const char* names[] = {"committed", "prepared"};
    for (std::string name : names) {
      Transaction* transaction = transactions->BeginTransaction(how, TransactionOptions());
      must(transaction->SetName(name), "name");
      must(transaction->Put(families[0], name, "in two phases"), "put");
      must(transaction->Prepare(), "prepare");
      if (name == "committed") must(transaction->Commit(), "commit");
    }
  }
}

int main(int argc, char** argv) {
  if (argc < 3) {
    for (auto& name : kNames) puts(name.c_str());
    return 0;
  }
  feature = argv[1], dir = argv[2];
  const std::string checkpoint_dir = dir;
  for (char c : feature) drawn = (drawn ^ c) * 1099511628211ull;
  journal = fopen((dir + ".journal").c_str(), "w");
  if (feature == "checkpoint") dir += ".source";
  if (feature == "killed") {
    static std::atomic<int> left{atoi(argv[4])};
    SyncPoint::GetInstance()->SetCallBack(argv[3], [](void*) {
      if (--left == 0) _exit(137);
    });
    SyncPoint::GetInstance()->EnableProcessing();
  }
  choose_options();
  WriteOptions how;
  how.sync = is_one_of({"sync", "killed", "damage", "waltrack"});
  how.disableWAL = feature == "nowal";
  open();
  const int rounds = feature == "killed" ? 12 : feature == "damage" ? 1 : 4;
  for (int round = 0; round < rounds; round++) {
    write_batches(60, how);
    if (feature != "multiwal") flush();
    else if (round == 1) must(db->Flush(FlushOptions(), families[1]), "flush");
    if (round % 5 == 4) show_feature(how);
  }
  if (feature != "killed") show_feature(how);
  write_batches(40, how);
  if (feature == "nowal") flush();
  if (feature == "checkpoint") {
    Checkpoint* checkpoint;
    must(Checkpoint::Create(db, &checkpoint), "checkpoint");
    must(checkpoint->CreateCheckpoint(checkpoint_dir), "checkpoint");
  }
  if (feature != "twophase" && below(2) == 0) close();
  fflush(nullptr);
  _exit(0);
}
