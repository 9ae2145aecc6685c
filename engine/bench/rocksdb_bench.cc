// RocksDB under the load of engine/examples/store_bench.rs: the same tests, keys, values, options and output. Not part of any
// cargo build; engine/bench/compare compiles it where RocksDB's headers are installed (Debian: librocksdb-dev).
//
//   rocksdb_bench DIR N TESTS [CACHE_MIB]
//
// Prints a JSON object per test. Reads use the store that fillrandom left in DIR/random.
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace rocksdb;

namespace {

constexpr size_t kKeyBytes = 16, kValueBytes = 100, kSyncedWrites = 2000, kLogBytes = 64 << 20;
constexpr size_t kBlobValueBytes = 4096;  // of tests of blob files, which have a sixth as many keys

void Check(const Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "%s\n", status.ToString().c_str());
  _exit(2);
}

double NowS() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuS() {
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

// Bytes that this process has passed to write calls.
double WrittenBytes() {
  std::ifstream io("/proc/self/io");
  std::string name;
  double value;
  while (io >> name >> value)
    if (name == "wchar:") return value;
  return 0;
}

struct Random {
  uint64_t state;
  uint64_t Next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
};

// Latencies in nanoseconds, sixteen buckets per power of two.
struct Histogram {
  std::vector<uint64_t> buckets = std::vector<uint64_t>(64 * 16);
  uint64_t count = 0;
  void Add(uint64_t ns) {
    int exponent = 63 - __builtin_clzll(ns | 1);
    int step = exponent >= 4 ? (ns >> (exponent - 4)) & 15 : ns & 15;
    buckets[exponent * 16 + step]++;
    count++;
  }
  void Merge(const Histogram& other) {
    for (size_t i = 0; i < buckets.size(); i++) buckets[i] += other.buckets[i];
    count += other.count;
  }
  double QuantileUs(double quantile) const {
    uint64_t target = count * quantile, seen = 0;
    for (size_t i = 0; i < buckets.size(); i++)
      if ((seen += buckets[i]) > target) return (i < 64 ? i % 16 : (16.0 + i % 16) * (1ull << (i / 16 - 4))) / 1e3;
    return 0;
  }
};

struct Bench {
  std::string dir;
  uint64_t n;
  size_t cache_mib;
  std::string values;
  double start_s = 0, start_cpu_s = 0, start_written = 0;

  Bench(std::string d, uint64_t count, size_t cache) : dir(d), n(count), cache_mib(cache), values(1 << 20, 0) {
    Random random{88172645463325252ull};
    for (auto& byte : values) byte = random.Next();
  }

  std::string Key(uint64_t i) const {
    std::string key(kKeyBytes, 0);
    for (int j = 0; j < 8; j++) key[j] = char(i >> (56 - 8 * j));
    memcpy(&key[8], "padding_", 8);
    return key;
  }
  Slice Value(uint64_t i, size_t len = kValueBytes) const {
    return Slice(values.data() + (i * 131) % (values.size() - len), len);
  }
  uint64_t Permuted(uint64_t i) const { return (i * 11400714819323198485ull + 0x9e3779b97f4a7c15ull) % n; }

  Options MakeOptions() const {
    Options options;
    options.create_if_missing = true;
    options.compression = kNoCompression;
    options.write_buffer_size = 64 << 20;
    options.max_background_jobs = 2;
    options.level_compaction_dynamic_level_bytes = false;
    options.info_log_level = WARN_LEVEL;
    BlockBasedTableOptions table;
    table.checksum = kCRC32c;
    table.format_version = 5;
    table.block_size = 4096;
    table.block_cache = NewLRUCache(cache_mib << 20);
    table.filter_policy.reset(NewBloomFilterPolicy(10));
    options.table_factory.reset(NewBlockBasedTableFactory(table));
    return options;
  }

  std::unique_ptr<DB> Open(const std::string& path, Options options) const {
    DB* db;
    Check(DB::Open(options, path, &db));
    return std::unique_ptr<DB>(db);
  }
  std::unique_ptr<DB> Open(const std::string& path) const { return Open(path, MakeOptions()); }

  // Values of some length are in blob files, of which the oldest quarter is emptied.
  std::unique_ptr<DB> OpenBlobs(const std::string& path) const {
    auto options = MakeOptions();
    options.enable_blob_files = true;
    options.min_blob_size = 512;
    options.enable_blob_garbage_collection = true;
    options.blob_garbage_collection_age_cutoff = 0.25;
    return Open(path, options);
  }

  std::string Fresh(const char* name) const {
    std::string path = dir + "/" + name;
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
    return path;
  }

  void Begin() { start_s = NowS(), start_cpu_s = CpuS(), start_written = WrittenBytes(); }

  // user_bytes: what was written, 0 for reads. settle_s: when the measured part ended, if work in the background followed.
  void Report(const std::string& test, uint64_t ops, const Histogram* latency, double user_bytes, double end_s = 0) {
    double seconds = (end_s ? end_s : NowS()) - start_s;
    printf("{\"test\":\"%s\",\"ops\":%lu,\"seconds\":%.4f,\"ops_per_s\":%.0f", test.c_str(), ops, seconds, ops / seconds);
    if (latency) printf(",\"p50_us\":%.2f,\"p99_us\":%.2f", latency->QuantileUs(.5), latency->QuantileUs(.99));
    printf(",\"cpu_s\":%.2f", CpuS() - start_cpu_s);
    if (user_bytes) printf(",\"write_amp\":%.2f", (WrittenBytes() - start_written) / user_bytes);
    printf("}\n");
    fflush(stdout);
  }

  void Settle(DB* db) {
    Check(db->Flush(FlushOptions()));
    uint64_t running = 1, pending = 1;
    while (running || pending) {
      db->GetIntProperty("rocksdb.num-running-compactions", &running);
      db->GetIntProperty("rocksdb.compaction-pending", &pending);
      if (running || pending) usleep(5000);
    }
  }

  void Fill(const std::string& test, DB* db, uint64_t ops, bool sequential, bool sync, uint64_t batch_len, int writers,
            size_t value_bytes = kValueBytes) {
    std::vector<Histogram> latencies(writers);
    WriteOptions write;
    write.sync = sync;
    Begin();
    std::vector<std::thread> threads;
    for (int w = 0; w < writers; w++)
      threads.emplace_back([&, w] {
        Random random{88172645463325252ull + w};
        WriteBatch batch;
        for (uint64_t i = w; i < ops; i += writers) {
          auto before = std::chrono::steady_clock::now();
          batch.Put(Key(sequential ? i : Permuted(random.Next())), Value(i, value_bytes));
          if (batch.Count() == batch_len) {
            Check(db->Write(write, &batch));
            batch.Clear();
          }
          latencies[w].Add((std::chrono::steady_clock::now() - before).count());
        }
      });
    for (auto& thread : threads) thread.join();
    double end_s = NowS();
    Histogram latency;
    for (auto& other : latencies) latency.Merge(other);
    Settle(db);
    Report(test, ops, &latency, ops * double(kKeyBytes + value_bytes), end_s);
  }

  // Each is warmed up with a quarter of the calls.
  void Read(const std::string& test, uint64_t ops, const std::function<void(DB*, Random&)>& call) {
    auto db = test == "blobread" ? OpenBlobs(dir + "/blobs") : Open(dir + "/random");
    Random random{0x9e3779b97f4a7c15ull ^ ops};
    for (uint64_t i = 0; i < ops / 4; i++) call(db.get(), random);
    Histogram latency;
    Begin();
    for (uint64_t i = 0; i < ops; i++) {
      auto before = std::chrono::steady_clock::now();
      call(db.get(), random);
      latency.Add((std::chrono::steady_clock::now() - before).count());
    }
    Report(test, ops, &latency, 0);
  }

  void Run(const std::string& test) {
    if (test == "fillseq") {
      Fill(test, Open(Fresh("sequential")).get(), n, true, false, 1, 1);
    } else if (test == "fillbatch100") {
      Fill(test, Open(Fresh("batch")).get(), n, true, false, 100, 1);
    } else if (test == "fillrandom") {
      Fill(test, Open(Fresh("random")).get(), n, false, false, 1, 1);
    } else if (test == "overwrite") {
      auto db = Open(dir + "/random");
      Fill(test, db.get(), n, false, false, 1, 1);
      Begin();
      Check(db->CompactRange(CompactRangeOptions(), nullptr, nullptr));
      Report("compactall", 1, nullptr, 0);
    } else if (test == "fillsync") {
      Fill(test, Open(Fresh("sync")).get(), kSyncedWrites, false, true, 1, 1);
    } else if (test == "fillsync4") {
      Fill(test, Open(Fresh("sync")).get(), kSyncedWrites, false, true, 1, 4);
    } else if (test == "blobfill") {
      Fill(test, OpenBlobs(Fresh("blobs")).get(), n, false, false, 1, 1, kBlobValueBytes);
    } else if (test == "bloboverwrite") {
      Fill(test, OpenBlobs(dir + "/blobs").get(), n, false, false, 1, 1, kBlobValueBytes);
    } else if (test == "readrandom" || test == "readrandom-large" || test == "blobread") {
      if (test == "readrandom-large") cache_mib = 256;
      Read(test, n / 2, [&](DB* db, Random& random) {
        PinnableSlice value;
        db->Get(ReadOptions(), db->DefaultColumnFamily(), Key(Permuted(random.Next())), &value);
      });
    } else if (test == "readmissing") {
      Read(test, n / 2, [&](DB* db, Random& random) {
        PinnableSlice value;
        std::string key = Key(Permuted(random.Next()));
        key[15] = '!';
        db->Get(ReadOptions(), db->DefaultColumnFamily(), key, &value);
      });
    } else if (test == "seekrandom10") {
      Read(test, n / 10, [&](DB* db, Random& random) {
        std::unique_ptr<Iterator> iter(db->NewIterator(ReadOptions()));
        iter->Seek(Key(Permuted(random.Next())));
        for (int i = 0; i < 10 && iter->Valid(); i++, iter->Next()) {
          std::string key = iter->key().ToString(), value = iter->value().ToString();
        }
      });
    } else if (test == "readseq") {
      auto db = Open(dir + "/random");
      for (int round = 0; round < 2; round++) {
        uint64_t rows = 0;
        Begin();
        std::unique_ptr<Iterator> iter(db->NewIterator(ReadOptions()));
        for (iter->SeekToFirst(); iter->Valid(); iter->Next(), rows++) {
          std::string key = iter->key().ToString(), value = iter->value().ToString();
        }
        if (round) Report(test, rows, nullptr, 0);
      }
    } else if (test == "reopen") {
      Begin();
      auto db = Open(dir + "/random");
      Report(test, 1, nullptr, 0);
    } else if (test == "walrecover") {
      auto path = Fresh("log");
      uint64_t records = kLogBytes / (kKeyBytes + kValueBytes + 23);
      pid_t child = fork();
      if (!child) {
        auto options = MakeOptions();
        options.write_buffer_size = 4ul << 30;
        auto db = Open(path, options);
        Random random{88172645463325252ull};
        for (uint64_t i = 0; i < records; i++) Check(db->Put(WriteOptions(), Key(Permuted(random.Next())), Value(i)));
        _exit(0);
      }
      int status;
      waitpid(child, &status, 0);
      Begin();
      auto db = Open(path);
      Report(test, records, nullptr, 0);
    } else if (test == "checkpoint") {
      auto db = Open(dir + "/random");
      for (uint64_t i = 0; i < 1000; i++) Check(db->Put(WriteOptions(), Key(i), Value(i)));
      std::filesystem::remove_all(dir + "/checkpoint");
      Checkpoint* checkpoint;
      Check(Checkpoint::Create(db.get(), &checkpoint));
      Begin();
      Check(checkpoint->CreateCheckpoint(dir + "/checkpoint"));
      Report(test, 1, nullptr, 0);
      delete checkpoint;
    } else {
      fprintf(stderr, "unknown test %s\n", test.c_str());
      _exit(2);
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: rocksdb_bench DIR N TESTS [CACHE_MIB]\n");
    return 2;
  }
  size_t cache_mib = argc > 4 ? strtoull(argv[4], nullptr, 10) : 8;
  std::string tests = std::string(argv[3]) + ",";
  for (size_t from = 0, to; (to = tests.find(',', from)) != std::string::npos; from = to + 1) {
    std::string test = tests.substr(from, to - from);
    uint64_t n = strtoull(argv[2], nullptr, 10);
    Bench(argv[1], test.rfind("blob", 0) == 0 ? n / 6 : n, cache_mib).Run(test);
  }
}
