//! TCP with a length before each frame (tokio-util's codec).

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Sender(FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>);

#[derive(Debug)]
pub(super) struct Receiver(FramedRead<OwnedReadHalf, LengthDelimitedCodec>);

impl Listener {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn accept(&mut self) -> io::Result<(Sender, Receiver, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        let (sender, receiver) = framed(stream)?;
        Ok((sender, receiver, peer))
    }
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<(Sender, Receiver)> {
    framed(TcpStream::connect(address).await?)
}

fn framed(stream: TcpStream) -> io::Result<(Sender, Receiver)> {
    stream.set_nodelay(true)?;
    let codec = LengthDelimitedCodec::builder().max_frame_length(super::MAX_FRAME_BYTES).new_codec();
    let (read, write) = stream.into_split();
    Ok((Sender(FramedWrite::new(write, codec.clone())), Receiver(FramedRead::new(read, codec))))
}

impl Sender {
    pub(super) async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        self.0.send(frame).await
    }
}

impl Receiver {
    pub(super) async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next().await.map(|frame| Ok(frame?.freeze())).transpose()
    }
}
