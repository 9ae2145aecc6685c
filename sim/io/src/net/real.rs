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
pub(super) struct Receiver {
    frames: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    /// The codec reports an error once and the end of the stream from then on, which it is not.
    broken: bool,
}

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
    let sender = Sender(FramedWrite::new(write, codec.clone()));
    Ok((sender, Receiver { frames: FramedRead::new(read, codec), broken: false }))
}

impl Sender {
    pub(super) async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        self.0.send(frame).await
    }
}

impl Receiver {
    pub(super) async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        if self.broken {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke before"));
        }
        match self.frames.next().await {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.freeze())),
            Some(Err(e)) => {
                self.broken = true;
                Err(match e.kind() {
                    // So the codec says that the stream ended within a frame: the peer broke off.
                    io::ErrorKind::Other => io::Error::new(io::ErrorKind::ConnectionReset, e),
                    _ => e,
                })
            }
        }
    }
}
