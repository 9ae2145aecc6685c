//! The simulated network's handles; see `sim::net`.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::sim::net::{Bound, Endpoint};

#[derive(Debug)]
pub(super) struct Listener(Bound);

#[derive(Debug)]
pub(super) struct Sender(Endpoint);

#[derive(Debug)]
pub(super) struct Receiver(Endpoint);

impl Listener {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Listener> {
        Bound::bind(address).map(Listener)
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.0.address()
    }

    pub(super) async fn accept(&mut self) -> io::Result<(Sender, Receiver, SocketAddr)> {
        let (endpoint, peer) = self.0.accept().await?;
        Ok((Sender(endpoint.clone()), Receiver(endpoint), peer))
    }
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<(Sender, Receiver)> {
    let endpoint = crate::sim::net::connect(address).await?;
    Ok((Sender(endpoint.clone()), Receiver(endpoint)))
}

impl Sender {
    pub(super) async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        self.0.send(frame).await
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.close_sender();
    }
}

impl Receiver {
    pub(super) async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        self.0.recv().await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close_receiver();
    }
}
