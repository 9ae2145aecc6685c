// The content of a directory, as RocksDB reads it. It is opened for writing, and so recovered.
//
//   read version       the version of RocksDB
//   read DIR [MODE]    MODE is RocksDB's WALRecoveryMode by number; 2, point in time, is its default
//
// A line with the name of each family, and a line for each of its keys: family, key, value, the latter two in hexadecimal. The last line
// is "seq" and the last sequence number. A directory that is refused is so on stderr: "open", when it is opened, or "read", when its
// keys are read.
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/version.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

using namespace rocksdb;

static void must(const Status& status, const char* what) {
  if (status.ok()) return;
  fflush(stdout);
  fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  _Exit(2);
}

// Forwards, each key looked up as well, and backwards.
static void print(DB* db, ColumnFamilyHandle* family) {
  printf("%s\n", family->GetName().c_str());
  std::unique_ptr<Iterator> iter(db->NewIterator(ReadOptions(), family));
  long forwards = 0, backwards = 0;
  for (iter->SeekToFirst(); iter->Valid(); iter->Next(), forwards++) {
    std::string value;
    must(db->Get(ReadOptions(), family, iter->key(), &value), "read");
    if (value != iter->value()) must(Status::Corruption("a look-up finds another value"), "read");
    std::string key = iter->key().ToString(true), shown = Slice(value).ToString(true);
    printf("%s\t%s\t%s\n", family->GetName().c_str(), key.c_str(), shown.c_str());
  }
  must(iter->status(), "read");
  for (iter->SeekToLast(); iter->Valid(); iter->Prev()) backwards++;
  must(iter->status(), "read");
  if (forwards != backwards) must(Status::Corruption("there are other keys backwards"), "read");
}

int main(int argc, char** argv) {
  if (argc < 2) return 1;
  const std::string dir = argv[1];
  if (dir == "version") {
    printf("%d.%d.%d\n", ROCKSDB_MAJOR, ROCKSDB_MINOR, ROCKSDB_PATCH);
    return 0;
  }
  Options options;
  options.paranoid_checks = options.force_consistency_checks = true;
  options.track_and_verify_wals_in_manifest = true;
  options.disable_auto_compactions = true;
  options.enable_blob_files = true;
  options.info_log_level = FATAL_LEVEL;
  options.wal_recovery_mode = static_cast<WALRecoveryMode>(argc > 2 ? atoi(argv[2]) : 2);
  must(MergeOperator::CreateFromString(ConfigOptions(), "stringappend", &options.merge_operator), "operator");
  std::vector<std::string> names;
  must(DB::ListColumnFamilies(options, dir, &names), "open");
  std::vector<ColumnFamilyDescriptor> descriptors;
  for (auto& name : names) descriptors.push_back({name, options});
  std::vector<ColumnFamilyHandle*> families;
  DB* db;
  must(DB::Open(options, dir, descriptors, &families, &db), "open");
  for (auto family : families) print(db, family);
  printf("seq\t%llu\n", static_cast<unsigned long long>(db->GetLatestSequenceNumber()));
  for (auto family : families) delete family;
  must(db->Close(), "close");
  delete db;
}
