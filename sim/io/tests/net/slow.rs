//! The simulated network where it is neither whole nor cut: far machines, slow links, swizzled clogs, half-open connections,
//! stalls that end early.
#![cfg(madsim)]

use std::io::ErrorKind;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use cutwater_io::net::{Connection, Listener};
use cutwater_io::sim::{NodeId, net};
use cutwater_io::time::timeout;

const PORT: u16 = 7000;
const LONG: Duration = Duration::from_secs(60);

/// A connection between two nodes.
async fn pair(world: &World, from: u64, to: u64) -> (Connection, Connection) {
    let server = world.on(to, async move {
        let mut listener = Listener::bind(address(to, PORT)).await.expect("binds");
        listener.accept().await.expect("accepts").0
    });
    sleep_ms(1).await;
    let client =
        world.on(from, async move { Connection::connect(address(to, PORT)).await.expect("connects") });
    let client = client.await.expect("runs");
    (client, server.await.expect("runs"))
}

/// How long a frame of so many bytes takes, in microseconds.
async fn trip_us(world: &World, ends: &mut (Connection, Connection), len_bytes: usize) -> u64 {
    let before = world.env.now_ns();
    ends.0.sender.send(Bytes::from(vec![0; len_bytes])).await.expect("sends");
    ends.1.receiver.recv().await.expect("receives").expect("a frame");
    (world.env.now_ns() - before) / 1000
}

fn steady() -> net::Config {
    net::Config {
        latency_sigma: 0.0,
        link_sigma: 0.0,
        jitter_us: 0,
        spike_permille: 0,
        slow_link_permille: 0,
        ..Default::default()
    }
}

#[test]
fn each_pair_of_machines_has_its_own_distance() {
    let setup = || Setup { nodes: 5, net: net::Config { link_sigma: 0.4, ..steady() }, ..Default::default() };
    let distances = |world: World| async move {
        let mut trips = Vec::new();
        for to in 2..=5 {
            let mut ends = pair(&world, 1, to).await;
            let there = trip_us(&world, &mut ends, 10).await;
            let (client, server) = ends;
            let back = trip_us(&world, &mut (server, client), 10).await;
            assert!(there.abs_diff(back) <= 2, "{there} us there, {back} back");
            trips.push(there);
        }
        trips
    };
    let (trips, digest) = run(setup(), distances);
    assert!(trips.iter().all(|us| (50..5_000).contains(us)), "{trips:?}");
    let distinct: std::collections::BTreeSet<_> = trips.iter().collect();
    assert_eq!(distinct.len(), 4, "{trips:?}");
    assert_eq!(run(setup(), distances), (trips, digest));
}

#[test]
fn some_links_are_slow_for_the_whole_run() {
    let config = net::Config { slow_link_permille: 1000, slow_link_factor_max: 50, ..steady() };
    run(Setup { net: config, ..Default::default() }, |world| async move {
        let mut ends = pair(&world, 1, 2).await;
        let small = trip_us(&world, &mut ends, 1).await;
        assert!((990..26_000).contains(&small), "{small} us");
        // 100 kB take 0.8 ms at the usual bandwidth.
        let large = trip_us(&world, &mut ends, 100_000).await;
        assert!(large - small > 1_500, "{large} us for 100 kB");
    });
}

#[test]
fn a_link_or_a_machine_is_slow_for_a_while() {
    run(Setup { net: steady(), ..Default::default() }, |world| async move {
        let net = world.env.net();
        let (mut ends, mut others) = (pair(&world, 1, 2).await, pair(&world, 1, 3).await);
        let usual = trip_us(&world, &mut ends, 1).await;
        net.slow(NodeId(1), NodeId(2), 20);
        assert_eq!(trip_us(&world, &mut ends, 1).await / 1000, usual * 20 / 1000);
        assert_eq!(trip_us(&world, &mut others, 1).await / 100, usual / 100, "only between the two");
        net.slow(NodeId(1), NodeId(2), 1);
        net.slow_node(NodeId(1), 7);
        assert_eq!(trip_us(&world, &mut others, 1).await / 100, usual * 7 / 100);
        let slowed = net.counters().packets_slowed;
        assert_eq!(slowed, 2);
        net.heal();
        assert_eq!(trip_us(&world, &mut ends, 1).await / 100, usual / 100);
        assert_eq!(net.counters().packets_slowed, slowed);
    });
}

#[test]
fn a_clogged_node_reaches_nobody_as_long_as_any_clog_stands() {
    run(Setup { net: steady(), ..Default::default() }, |world| async move {
        let net = world.env.net();
        let (mut to, mut from) = (pair(&world, 2, 1).await, pair(&world, 1, 3).await);
        net.clog_node(NodeId(1));
        net.clog_node(NodeId(1));
        to.0.sender.send(Bytes::from("in")).await.expect("taken");
        from.0.sender.send(Bytes::from("out")).await.expect("taken");
        sleep_ms(500).await;
        net.unclog_node(NodeId(1));
        assert!(timeout(Duration::from_secs(5), to.1.receiver.recv()).await.is_err());
        assert!(timeout(Duration::from_secs(5), from.1.receiver.recv()).await.is_err());
        net.unclog_node(NodeId(1));
        net.unclog_node(NodeId(1));
        assert_eq!(to.1.receiver.recv().await.expect("arrives"), Some(Bytes::from("in")));
        assert_eq!(from.1.receiver.recv().await.expect("arrives"), Some(Bytes::from("out")));
    });
}

#[test]
fn a_half_open_connection_is_noticed_by_who_sends_and_only_then() {
    run(Setup { net: steady(), ..Default::default() }, |world| async move {
        let net = world.env.net();
        let ((mut client, mut server), (mut other, mut other_server)) =
            (pair(&world, 1, 2).await, pair(&world, 1, 3).await);
        net.half_open(NodeId(1), NodeId(2));
        assert_eq!(net.counters().half_opened, 1);
        assert_eq!(server.receiver.recv().await.expect_err("forgotten").kind(), ErrorKind::ConnectionReset);
        assert_eq!(
            server.sender.send(Bytes::from("x")).await.expect_err("forgotten").kind(),
            ErrorKind::ConnectionReset
        );
        assert!(timeout(LONG, client.receiver.recv()).await.is_err(), "the client believes");
        client.sender.send(Bytes::from("hello")).await.expect("it still believes");
        let found = timeout(LONG, client.receiver.recv()).await.expect("the answer is a reset");
        assert_eq!(found.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        other.sender.send(Bytes::from("y")).await.expect("another connection");
        assert_eq!(other_server.receiver.recv().await.expect("is whole"), Some(Bytes::from("y")));
    });
}

#[test]
fn a_half_open_connection_over_a_cut_link_stays_so() {
    run(Setup { net: steady(), ..Default::default() }, |world| async move {
        let (mut client, _server) = pair(&world, 1, 2).await;
        let net = world.env.net();
        net.half_open(NodeId(1), NodeId(2));
        // The way back is cut: no reset gets through.
        net.partition(&[NodeId(2)], &[NodeId(1)]);
        client.sender.send(Bytes::from("hello")).await.expect("it believes");
        assert!(timeout(LONG, client.receiver.recv()).await.is_err());
        net.heal();
        let found = timeout(LONG, client.receiver.recv()).await.expect("the reset arrives");
        assert_eq!(found.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_stall_under_way_is_cut_short_by_healing() {
    run(Setup { net: steady(), ..Default::default() }, |world| async move {
        let mut ends = pair(&world, 1, 2).await;
        let net = world.env.net();
        net.stall(NodeId(1), NodeId(2), world.env.now_ns() / 1000 + 300_000_000);
        for frame in ["a", "b"] {
            ends.0.sender.send(Bytes::from(frame)).await.expect("taken");
        }
        assert!(timeout(Duration::from_secs(2), ends.1.receiver.recv()).await.is_err());
        net.heal();
        for frame in ["a", "b"] {
            let received = timeout(Duration::from_secs(2), ends.1.receiver.recv()).await.expect("healed");
            assert_eq!(received.expect("arrives"), Some(Bytes::from(frame)));
        }
        // Ended by another stall, too.
        net.stall(NodeId(1), NodeId(2), world.env.now_ns() / 1000 + 300_000_000);
        ends.0.sender.send(Bytes::from("c")).await.expect("taken");
        assert!(timeout(Duration::from_secs(2), ends.1.receiver.recv()).await.is_err());
        net.stall(NodeId(1), NodeId(2), 0);
        let received = timeout(Duration::from_secs(2), ends.1.receiver.recv()).await.expect("ended");
        assert_eq!(received.expect("arrives"), Some(Bytes::from("c")));
    });
}
