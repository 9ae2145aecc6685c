//! What processes hold: listeners and ends of connections. Each belongs to an incarnation of its node; once that has died,
//! nothing it does has an effect, and it is counted.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::poll_fn;
use madsim::time::TimeHandle;

use super::connection::End;
use super::model::{AddressError, Answer, ConnId, Model, Received, SendError};
use crate::sim::{Crash, Env, NodeId, SiteAction, SiteFault};

/// A process: the node and which of its lives.
#[derive(Clone)]
struct Owner {
    env: Arc<Env>,
    node: NodeId,
    incarnation: u64,
}

impl Owner {
    fn current() -> Owner {
        let env = Env::current();
        let node = Env::node();
        let incarnation = env.incarnation(node);
        Owner { env, node, incarnation }
    }

    fn check(&self) -> io::Result<()> {
        if self.env.incarnation(self.node) == self.incarnation {
            return Ok(());
        }
        self.env.stale_call();
        Err(error(io::ErrorKind::ConnectionReset, format!("{} died since", self.node)))
    }

    fn run<T>(&self, step: impl FnOnce(&mut Model, u64) -> T) -> T {
        let now_ns = self.env.now_ns();
        self.env.net.run(&self.env, |model| step(model, now_ns))
    }

    /// Runs `step` from a destructor: only in a run that still goes on, only if the owner lives.
    fn run_in_drop(&self, step: impl FnOnce(&mut Model, u64)) {
        if TimeHandle::try_current().is_some() && self.check().is_ok() {
            self.run(step);
        }
    }
}

fn error(kind: io::ErrorKind, what: String) -> io::Error {
    io::Error::new(kind, what)
}

fn address_error(e: AddressError, address: SocketAddr) -> io::Error {
    match e {
        AddressError::NotOwn => {
            error(io::ErrorKind::AddrNotAvailable, format!("{address} is not an address of this node"))
        }
        AddressError::InUse => error(io::ErrorKind::AddrInUse, format!("{address}: no port is free")),
        AddressError::Unreachable => {
            error(io::ErrorKind::HostUnreachable, format!("{address} belongs to no node"))
        }
    }
}

/// What a fault leaves to be done around a call.
enum Struck {
    Proceed,
    Broken,
    CrashAfter(Crash),
}

async fn strike(owner: &Owner, site: &'static str, target: SocketAddr) -> io::Result<Struck> {
    let class = owner.env.classify(Path::new("net"));
    let SiteAction::Strike(fault) = owner.env.at_site(site, class, &target.to_string()) else {
        return Ok(Struck::Proceed);
    };
    match fault {
        SiteFault::Fail(errno) => return Err(io::Error::from_raw_os_error(errno.raw())),
        SiteFault::Delay(us) => madsim::time::sleep(Duration::from_micros(us.into())).await,
        SiteFault::CrashBefore(crash) => owner.env.crash_here(crash).await,
        SiteFault::CrashAfter(crash) => return Ok(Struck::CrashAfter(crash)),
        SiteFault::Reset => return Ok(Struck::Broken),
        SiteFault::Hang => std::future::pending().await,
        // Faults of disks and of the object store mean nothing here.
        SiteFault::Short
        | SiteFault::Fsync(_)
        | SiteFault::Damage(_)
        | SiteFault::FailBefore
        | SiteFault::FailAfter
        | SiteFault::LateLand(_)
        | SiteFault::StallBody
        | SiteFault::Throttle => {}
    }
    Ok(Struck::Proceed)
}

/// A listener of a process.
pub(crate) struct Bound {
    owner: Owner,
    address: SocketAddr,
}

impl Bound {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Bound> {
        let owner = Owner::current();
        let bound = owner.run(|model, now_ns| {
            model.machine_up(owner.node, now_ns);
            model.bind(owner.node, owner.incarnation, address)
        });
        let address = bound.map_err(|e| address_error(e, address))?;
        Ok(Bound { owner, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn accept(&mut self) -> io::Result<(Endpoint, SocketAddr)> {
        let owner = &self.owner;
        let (conn, peer) = poll_fn(|cx| {
            if let Err(e) = owner.check() {
                return Poll::Ready(Err(e));
            }
            let port = self.address.port();
            match owner.run(|model, _| model.accept(owner.node, owner.incarnation, port, cx.waker())) {
                Some(accepted) => Poll::Ready(Ok(accepted)),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok((Endpoint { owner: owner.clone(), conn, end: End::Server, peer }, peer))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let (node, port) = (self.owner.node, self.address.port());
        self.owner.run_in_drop(|model, now_ns| model.unlisten(node, port, now_ns));
    }
}

/// One end of a connection, held by a process. Its sender and its receiver are closed separately; dropping it does nothing.
#[derive(Clone)]
pub(crate) struct Endpoint {
    owner: Owner,
    conn: ConnId,
    end: End,
    peer: SocketAddr,
}

/// Gives up a connect that nobody waits for any more.
struct Connecting<'a>(Option<&'a Endpoint>);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0 {
            let (conn, end) = (endpoint.conn, endpoint.end);
            endpoint.owner.run_in_drop(|model, now_ns| model.abandon(conn, end, now_ns));
        }
    }
}

/// Connects the process of this task to `peer`.
pub(crate) async fn connect(peer: SocketAddr) -> io::Result<Endpoint> {
    let owner = Owner::current();
    let struck = strike(&owner, "net.connect", peer).await?;
    let refused = || error(io::ErrorKind::ConnectionRefused, format!("{peer} refused the connection"));
    if matches!(struck, Struck::Broken) {
        return Err(refused());
    }
    owner.check()?;
    let conn = owner.run(|model, now_ns| {
        model.machine_up(owner.node, now_ns);
        model.connect(owner.node, owner.incarnation, peer, now_ns)
    });
    let conn = conn.map_err(|e| address_error(e, peer))?;
    let endpoint = Endpoint { owner, conn, end: End::Client, peer };
    let mut connecting = Connecting(Some(&endpoint));
    let answer = poll_fn(|cx| match endpoint.owner.run(|model, _| model.answer(endpoint.conn, cx.waker())) {
        Some(answer) => Poll::Ready(answer),
        None => Poll::Pending,
    })
    .await;
    if let Struck::CrashAfter(crash) = struck {
        endpoint.owner.env.crash_here(crash).await;
    }
    match answer {
        Answer::Connected => {
            connecting.0 = None;
            drop(connecting);
            Ok(endpoint)
        }
        Answer::Refused => Err(refused()),
        Answer::Reset => {
            Err(error(io::ErrorKind::ConnectionReset, format!("connection to {peer} was reset")))
        }
    }
}

impl Endpoint {
    /// Sends a frame as soon as there is room in the window.
    pub(crate) async fn send(&self, frame: Bytes) -> io::Result<()> {
        self.owner.check()?;
        let struck = strike(&self.owner, "net.send", self.peer).await?;
        if matches!(struck, Struck::Broken) {
            self.owner.run(|model, now_ns| model.break_from(self.conn, self.end, now_ns));
        }
        poll_fn(|cx| {
            if let Err(e) = self.owner.check() {
                return Poll::Ready(Err(e));
            }
            let sent =
                self.owner.run(|model, now_ns| model.send(self.conn, self.end, &frame, now_ns, cx.waker()));
            match sent {
                Ok(()) => Poll::Ready(Ok(())),
                Err(SendError::WindowFull) => Poll::Pending,
                Err(SendError::Reset) => Poll::Ready(Err(self.reset())),
            }
        })
        .await?;
        if let Struck::CrashAfter(crash) = struck {
            self.owner.env.crash_here(crash).await;
        }
        Ok(())
    }

    /// The next frame, or the end of the stream.
    pub(crate) async fn recv(&self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| {
            if let Err(e) = self.owner.check() {
                return Poll::Ready(Err(e));
            }
            match self.owner.run(|model, now_ns| model.receive(self.conn, self.end, now_ns, cx.waker())) {
                Received::Frame(frame) => Poll::Ready(Ok(Some(frame))),
                Received::EndOfStream => Poll::Ready(Ok(None)),
                Received::Reset => Poll::Ready(Err(self.reset())),
                Received::Nothing => Poll::Pending,
            }
        })
        .await
    }

    /// The process drops its sender.
    pub(crate) fn close_sender(&self) {
        self.owner.run_in_drop(|model, now_ns| model.close_sender(self.conn, self.end, now_ns));
    }

    /// The process drops its receiver.
    pub(crate) fn close_receiver(&self) {
        self.owner.run_in_drop(|model, now_ns| model.close_receiver(self.conn, self.end, now_ns));
    }

    fn reset(&self) -> io::Error {
        error(io::ErrorKind::ConnectionReset, format!("connection with {} was reset", self.peer))
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.address, self.owner.node)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection of {} with {}", self.owner.node, self.peer)
    }
}
