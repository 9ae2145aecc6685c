//! Framed, ordered connections.
//!
//! A connection carries frames (byte strings of at most [`MAX_FRAME_BYTES`]) in order, or breaks. Nothing is promised about
//! what the other side received before a break. `send` waits while the peer's window is full. A connect to a node that is
//! partitioned away or dead may hang: give it a [`crate::time::timeout`].

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

#[cfg(not(madsim))]
mod real;
#[cfg(not(madsim))]
use real as imp;
#[cfg(madsim)]
mod simulated;
#[cfg(madsim)]
use simulated as imp;

/// The largest frame that can be sent or received, in bytes; a longer one is `InvalidData`.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// Accepts connections.
#[derive(Debug)]
pub struct Listener(imp::Listener);

/// Both halves of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The half that sends.
    pub sender: Sender,
    /// The half that receives.
    pub receiver: Receiver,
}

/// The sending half. When it is dropped, the peer receives the end of the stream after all frames.
#[derive(Debug)]
pub struct Sender(imp::Sender);

/// The receiving half.
#[derive(Debug)]
pub struct Receiver(imp::Receiver);

impl Listener {
    /// Listens on `address`; port 0 picks a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        imp::Listener::bind(address).await.map(Listener)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// The next connection and its peer.
    pub async fn accept(&mut self) -> io::Result<(Connection, SocketAddr)> {
        let (sender, receiver, peer) = self.0.accept().await?;
        Ok((Connection { sender: Sender(sender), receiver: Receiver(receiver) }, peer))
    }
}

impl Connection {
    /// Connects to `address`. May hang; give it a timeout.
    pub async fn connect(address: SocketAddr) -> io::Result<Connection> {
        let (sender, receiver) = imp::connect(address).await?;
        Ok(Connection { sender: Sender(sender), receiver: Receiver(receiver) })
    }
}

impl Sender {
    /// Sends a frame. `Ok` says that it was taken, not that it will arrive.
    pub async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        if frame.len() > MAX_FRAME_BYTES {
            let what = format!("frame of {} bytes exceeds {MAX_FRAME_BYTES}", frame.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.0.send(frame).await
    }
}

impl Receiver {
    /// The next frame; `None` is the orderly end of the stream.
    ///
    /// # Cancel safety
    /// Dropping the future loses no frame.
    pub async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        self.0.recv().await
    }
}
