//! RocksDB, killed between two of its durable states: what it had acknowledged is there, what is there is a prefix of what it was
//! given, and it is what RocksDB finds there itself.

use cutwater_engine::store::WalRecovery;

use crate::fixture::{Fixture, block_on, found, found_read_only, names, open};

#[test]
fn what_a_killed_rocksdb_leaves_is_recovered_as_rocksdb_recovers_it() {
    let names = names();
    let killed: Vec<&String> = names.iter().filter(|name| name.starts_with("killed-")).collect();
    assert!(killed.len() >= 12, "{killed:?}");
    for name in killed {
        let fixture = Fixture::unpack(name);
        let (dir, dump, journal) = (fixture.dir(), fixture.dump(), fixture.journal());
        // The batch that it was writing may be there.
        assert!(
            journal.acknowledged > 0 && (0..=1).contains(&(journal.len() - journal.acknowledged)),
            "{name}"
        );
        block_on(async {
            let recovered = found_read_only(&dir).await.unwrap();
            assert_eq!(recovered, dump, "{name}, only looked at");
            let is_prefix =
                (journal.acknowledged..=journal.len()).any(|n| journal.after(n) == recovered.content);
            assert!(is_prefix, "{name}");
            for _ in 0..2 {
                let store = open(&dir, WalRecovery::default()).await.unwrap();
                assert_eq!(found(&store).await.unwrap(), dump, "{name}, opened");
                store.verify().await.unwrap();
                store.close().await.unwrap();
            }
        });
    }
}
