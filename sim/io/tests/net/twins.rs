//! One body, two networks: what holds on loopback TCP holds in the simulation. Run it with and without `RUSTFLAGS=""`.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::net::{Connection, Listener, MAX_FRAME_BYTES};
use cutwater_io::task::yield_now;
use cutwater_io::time::{sleep, timeout};
use futures::channel::oneshot;
use futures::future::BoxFuture;

/// Starts a task where the server lives.
type OnServer = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

#[cfg(madsim)]
fn run_twins(body: fn(IpAddr, OnServer) -> BoxFuture<'static, ()>) {
    use crate::support::{Setup, ip, run};
    run(Setup::default(), move |world| async move {
        let servers = world.clone();
        let on_server: OnServer = Box::new(move |task| drop(servers.on(2, task)));
        world.on(1, body(ip(2), on_server)).await.expect("runs");
    });
}

#[cfg(not(madsim))]
fn run_twins(body: fn(IpAddr, OnServer) -> BoxFuture<'static, ()>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let on_server: OnServer = Box::new(|task| drop(cutwater_io::task::spawn(task)));
    runtime.block_on(body(std::net::Ipv4Addr::LOCALHOST.into(), on_server));
}

/// The client's and the server's end of a connection.
async fn pair(ip: IpAddr, on_server: &OnServer) -> (Connection, Connection) {
    let (tell, address) = oneshot::channel();
    let (hand_out, accepted) = oneshot::channel();
    on_server(Box::pin(async move {
        let mut listener = Listener::bind(SocketAddr::new(ip, 0)).await.expect("binds");
        tell.send(listener.local_addr()).expect("someone waits");
        let (connection, _) = listener.accept().await.expect("accepts");
        hand_out.send(connection).unwrap_or_else(|_| panic!("someone waits"));
    }));
    let client = Connection::connect(address.await.expect("is told")).await.expect("connects");
    (client, accepted.await.expect("is handed out"))
}

fn is_break(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

#[test]
fn an_echo_keeps_order_and_content_and_ends_after_the_last_frame() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (mut client, mut server) = pair(ip, &on_server).await;
            on_server(Box::pin(async move {
                while let Some(frame) = server.receiver.recv().await.expect("no break") {
                    server.sender.send(frame).await.expect("sends");
                }
            }));
            let sizes = [0, 1, 5, 70_000, MAX_FRAME_BYTES, 0, 3];
            let frames: Vec<Bytes> = (0..).zip(sizes).map(|(n, len)| Bytes::from(vec![n; len])).collect();
            for frame in &frames {
                client.sender.send(frame.clone()).await.expect("sends");
                assert_eq!(client.receiver.recv().await.expect("receives").as_ref(), Some(frame));
            }
            for frame in &frames[..4] {
                client.sender.send(frame.clone()).await.expect("sends");
            }
            // Half a connection: the other direction goes on.
            drop(client.sender);
            for frame in &frames[..4] {
                assert_eq!(client.receiver.recv().await.expect("receives").as_ref(), Some(frame));
            }
            assert_eq!(client.receiver.recv().await.expect("an end"), None);
            assert_eq!(client.receiver.recv().await.expect("still the end"), None);
        })
    });
}

#[test]
fn a_frame_too_long_is_refused_and_harms_nothing() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (mut client, mut server) = pair(ip, &on_server).await;
            let long = client.sender.send(Bytes::from(vec![0; MAX_FRAME_BYTES + 1])).await;
            assert_eq!(long.expect_err("too long").kind(), ErrorKind::InvalidData);
            client.sender.send("next".into()).await.expect("sends");
            assert_eq!(server.receiver.recv().await.expect("receives").expect("a frame"), "next");
        })
    });
}

#[test]
fn nobody_listens_and_somebody_else_does() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (tell, answer) = oneshot::channel();
            on_server(Box::pin(async move {
                let listener = Listener::bind(SocketAddr::new(ip, 0)).await.expect("binds");
                let address = listener.local_addr();
                let taken = Listener::bind(address).await.expect_err("in use").kind();
                drop(listener);
                yield_now().await;
                tell.send((address, taken)).expect("someone waits");
            }));
            let (address, taken) = answer.await.expect("is told");
            assert_eq!(taken, ErrorKind::AddrInUse);
            let refused = Connection::connect(address).await.expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        })
    });
}

#[test]
fn a_sender_waits_for_a_receiver_that_does_not_take() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (mut client, mut server) = pair(ip, &on_server).await;
            let frame = Bytes::from(vec![1; 1 << 20]);
            let mut taken = 0;
            while taken < 64 {
                match timeout(Duration::from_millis(300), client.sender.send(frame.clone())).await {
                    Ok(sent) => sent.expect("no break"),
                    Err(_) => break,
                }
                taken += 1;
            }
            assert!(taken < 64, "64 MiB are under way and the sender did not wait");
            for _ in 0..taken {
                assert_eq!(server.receiver.recv().await.expect("receives").expect("a frame").len(), 1 << 20);
            }
        })
    });
}

#[test]
fn a_peer_that_is_gone_breaks_sends_after_a_while() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (mut client, server) = pair(ip, &on_server).await;
            drop(server);
            assert_eq!(client.receiver.recv().await.expect("an orderly end"), None);
            let mut sends = 0;
            let e = loop {
                match client.sender.send("anyone?".into()).await {
                    Ok(()) => sends += 1,
                    Err(e) => break e,
                }
                assert!(sends < 100, "nobody noticed");
                sleep(Duration::from_millis(5)).await;
            };
            assert!(sends >= 1, "a send cannot know at once");
            assert!(is_break(e.kind()), "{e}");
        })
    });
}

#[test]
fn dropping_a_connection_over_unread_data_ends_the_stream_and_breaks_sends() {
    run_twins(|ip, on_server| {
        Box::pin(async move {
            let (mut client, server) = pair(ip, &on_server).await;
            client.sender.send("unread".into()).await.expect("sends");
            sleep(Duration::from_millis(100)).await;
            // The sender goes first: the end of the stream is under way before the reset.
            drop(server);
            sleep(Duration::from_millis(100)).await;
            match client.receiver.recv().await {
                Ok(end) => assert_eq!(end, None),
                Err(e) => assert!(is_break(e.kind()), "{e}"),
            }
            let e = client.sender.send("too late".into()).await.expect_err("reset");
            assert!(is_break(e.kind()), "{e}");
        })
    });
}
