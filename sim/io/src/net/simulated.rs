//! stub
use bytes::Bytes;
use std::{io, net::SocketAddr};
#[derive(Debug)]
pub(super) struct Listener;
#[derive(Debug)]
pub(super) struct Sender;
#[derive(Debug)]
pub(super) struct Receiver;
impl Listener {
    pub(super) async fn bind(_: SocketAddr) -> io::Result<Listener> {
        unimplemented!()
    }
    pub(super) fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub(super) async fn accept(&mut self) -> io::Result<(Sender, Receiver, SocketAddr)> {
        unimplemented!()
    }
}
pub(super) async fn connect(_: SocketAddr) -> io::Result<(Sender, Receiver)> {
    unimplemented!()
}
impl Sender {
    pub(super) async fn send(&mut self, _: Bytes) -> io::Result<()> {
        unimplemented!()
    }
}
impl Receiver {
    pub(super) async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        unimplemented!()
    }
}
