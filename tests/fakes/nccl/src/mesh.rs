//! The ranks' connections: each pair has a Unix socket in the abstract namespace of this machine.

use crate::failure::{Code, Failure, Outcome};
use crate::settings;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Result, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

/// A name known only to the ranks of one communicator.
pub struct Id(String);

impl Id {
    const MARK: &str = "fake-nccl-";

    pub fn new() -> Id {
        Id(format!("{}{}-{:016x}", Self::MARK, std::process::id(), RandomState::new().hash_one(Self::MARK)))
    }

    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Outcome<Id> {
        let text = std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'));
        let known = text.filter(|text| text.starts_with(Self::MARK));
        known
            .map(|text| Id(text.to_owned()))
            .ok_or_else(|| Failure::argument("the unique id is not one of the fake NCCL's"))
    }

    /// Returns the address on which a rank listens.
    fn address(&self, rank: usize) -> Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("{}.{rank}", self.0))
    }
}

/// First message between two ranks: rank, world, GPU.
type Hello = [u32; 3];

/// This rank's connections.
pub struct Mesh {
    pub rank: usize,
    pub world: usize,
    /// By rank; `None` for itself.
    links: Vec<Option<UnixStream>>,
}

impl Mesh {
    /// Connects to all ranks; returns when the last is connected. `device` is this rank's GPU, which no other may have.
    pub fn meet(id: &Id, rank: usize, world: usize, device: u32) -> Outcome<Mesh> {
        let hello = [rank as u32, world as u32, device];
        let meeting = |e: std::io::Error| Failure::system("meeting the other ranks", &e);
        let mut mesh = Mesh { rank, world, links: (0..world).map(|_| None).collect() };
        let mut devices = vec![device; world];
        let listener = id.address(rank).and_then(|address| UnixListener::bind_addr(&address)).map_err(meeting)?;
        for other in 0..rank {
            let mut link = connect(id, other).map_err(meeting)?;
            let heard = tell(&mut link, hello).and_then(|()| hear(&mut link)).map_err(meeting)?;
            mesh.welcome(link, heard, &mut devices)?;
        }
        for _ in rank + 1..world {
            let (mut link, _) = listener.accept().map_err(meeting)?;
            let heard = hear(&mut link).and_then(|heard| tell(&mut link, hello).map(|()| heard)).map_err(meeting)?;
            mesh.welcome(link, heard, &mut devices)?;
        }
        let twice = |&rank: &usize| !settings::shares_gpus() && devices[..rank].contains(&devices[rank]);
        match (0..world).find(twice) {
            None => Ok(mesh),
            Some(rank) => {
                let first = devices.iter().position(|&device| device == devices[rank]).unwrap_or(0);
                let text = format!(
                    "Duplicate GPU detected : rank {rank} and rank {first} both on CUDA device {}",
                    devices[rank]
                );
                Err(Failure::usage(text))
            }
        }
    }

    fn welcome(&mut self, link: UnixStream, [rank, world, device]: Hello, devices: &mut [u32]) -> Outcome<()> {
        let place = rank as usize;
        if world as usize != self.world || place >= self.world || place == self.rank || self.links[place].is_some() {
            let text = format!("rank {} of {} met a rank {rank} of {world}", self.rank, self.world);
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        devices[place] = device;
        self.links[place] = Some(link);
        Ok(())
    }

    /// Sends `out(r)` to each rank r and receives `expected(r)` bytes from it; returns them by rank, including its own.
    ///
    /// Pairs of ranks communicate one after another in a common order, the lower rank of a pair first, so that there is
    /// no cycle of waits.
    pub fn exchange<'a>(
        &mut self,
        out: impl Fn(usize) -> &'a [u8],
        expected: impl Fn(usize) -> usize,
    ) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::with_capacity(self.world);
        for (other, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else {
                all.push(out(other).to_vec());
                continue;
            };
            let mut bytes = vec![0; expected(other)];
            if self.rank < other {
                link.write_all(out(other))?;
                link.read_exact(&mut bytes)?;
            } else {
                link.read_exact(&mut bytes)?;
                link.write_all(out(other))?;
            }
            all.push(bytes);
        }
        Ok(all)
    }
}

/// Connects to a rank, once it listens.
fn connect(id: &Id, rank: usize) -> Result<UnixStream> {
    let address = id.address(rank)?;
    loop {
        match UnixStream::connect_addr(&address) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

fn tell(link: &mut UnixStream, hello: Hello) -> Result<()> {
    hello.into_iter().try_for_each(|word| link.write_all(&word.to_le_bytes()))
}

fn hear(link: &mut UnixStream) -> Result<Hello> {
    let mut hello = [0; 3];
    for word in &mut hello {
        let mut bytes = [0; 4];
        link.read_exact(&mut bytes)?;
        *word = u32::from_le_bytes(bytes);
    }
    Ok(hello)
}
