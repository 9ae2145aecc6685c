// Writes a table as RocksDB's SstFileWriter does, for the store to ingest: write FILE COMPRESSION, with the entries on standard input,
// one a line: "put KEY VALUE", "delete KEY", "merge KEY OPERAND", "range BEGIN END".
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>

#include <iostream>
#include <string>

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: write FILE COMPRESSION\n";
    return 2;
  }
  rocksdb::BlockBasedTableOptions table;
  table.block_size = 256;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::Options options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = std::string(arguments[2]) == "snappy" ? rocksdb::kSnappyCompression : rocksdb::kNoCompression;
  rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), options);
  rocksdb::Status status = writer.Open(arguments[1]);
  std::string verb, key, value;
  while (status.ok() && std::cin >> verb >> key) {
    if (verb == "delete") {
      status = writer.Delete(key);
      continue;
    }
    std::cin >> value;
    status = verb == "put" ? writer.Put(key, value) : verb == "merge" ? writer.Merge(key, value) : writer.DeleteRange(key, value);
  }
  if (status.ok()) status = writer.Finish();
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return status.ok() ? 0 : 1;
}
