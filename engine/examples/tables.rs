//! Tables, to be copied: three nodes in one process, and a client that moves money.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine --example tables -- DIR
//! ```
//! Each node keeps a store of its own in DIR; what they agree on is a register beside. In earnest each node is a process on a machine
//! of its own, with the same calls. Run it again: the money has moved once more.

#[cfg(madsim)]
fn main() {
    eprintln!("this is the simulated build; run it with RUSTFLAGS=\"\"");
    std::process::exit(2);
}

#[cfg(not(madsim))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("where to keep the stores: tables DIR")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(dir.as_ref()))
}

#[cfg(not(madsim))]
async fn run(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    use cutwater_engine::tables::client::{Client, ClientError, Kind, TableSpec};
    use cutwater_engine::tables::node::{self, NodeConfig};
    use cutwater_io::task;

    let objects = dir.join("objects");
    std::fs::create_dir_all(&objects)?;
    let objects = format!("file://{}", std::path::absolute(objects)?.display());
    let addresses: Vec<std::net::SocketAddr> =
        (7101..7104).map(|port| ([127, 0, 0, 1], port).into()).collect();
    for (n, address) in addresses.iter().enumerate() {
        let data = dir.join(format!("node-{n}"));
        let config = NodeConfig::new("bank", format!("node-{n}"), *address, objects.clone(), data);
        task::spawn(async move {
            if let Err(error) = node::run(config).await {
                eprintln!("{error}");
            }
        });
    }

    let client = Client::connect("bank", addresses).await?;
    let spec = TableSpec { name: "accounts".into(), kind: Kind::Transactional, partitions: 8, backups: 1 };
    if client.tables().await?.is_empty() {
        client.create_table(spec).await?;
        client.put("accounts", b"alice", b"100").await?;
    }
    let balance = |bytes: Option<bytes::Bytes>| -> i64 {
        bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0)
    };
    loop {
        let mut transaction = client.transaction();
        let alice = balance(transaction.get("accounts", b"alice").await?);
        let bob = balance(transaction.get("accounts", b"bob").await?);
        transaction.put("accounts", b"alice", (alice - 10).to_string().as_bytes());
        transaction.put("accounts", b"bob", (bob + 10).to_string().as_bytes());
        match transaction.commit().await {
            Ok(()) => break,
            // Somebody was faster: what was read does not hold any more.
            Err(ClientError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    println!("alice has {}", balance(client.get("accounts", b"alice").await?));
    println!("bob has {}", balance(client.get("accounts", b"bob").await?));
    Ok(())
}
