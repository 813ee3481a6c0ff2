//! The server's port, held so that nobody brings it up listening.
//!
//! A socket that is bound and does not listen refuses clients, which then try another host, and keeps a
//! server from starting: PostgreSQL ends when it can bind none of its addresses. This needs nothing but
//! the kernel, so it holds where whoever starts servers here cannot be told to stop it. Two programs of one user may
//! hold it at the same time, so that one can take it over from the other without a gap.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::table::read_whole;

/// How long one address is asked whether anybody listens there.
const ASK: Duration = Duration::from_millis(100);

/// Where a server listens: one address, or all of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    addresses: [Option<SocketAddr>; 2],
}

/// The port, held until this is dropped.
#[derive(Debug)]
pub struct Hold {
    _sockets: [Option<OwnedFd>; 2],
}

impl Listening {
    /// Every address of this machine.
    pub fn everywhere(port: u16) -> Self {
        let (four, six) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Self { addresses: [four, six].map(|address| Some(SocketAddr::new(address, port))) }
    }

    /// What the `postmaster.pid` at `path` says; `None` when there is none, or no port in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &CStr) -> io::Result<Option<Self>> {
        let mut text = [0; 2048];
        match read_whole(CWD, path, &mut text) {
            Ok(length) => Ok(Self::parse(&text[..length])),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// From the fourth line, the port, and the sixth, the first address. A name that is no number is not
    /// looked up, but stands for every address: that holds more, never less.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines().skip(3);
        let port = lines.next()?.trim().parse().ok().filter(|port| *port != 0)?;
        let address = lines.nth(1)?.trim();
        if address.is_empty() {
            return None;
        }
        let Ok(address) = address.parse::<IpAddr>() else { return Some(Self::everywhere(port)) };
        Some(Self { addresses: [Some(SocketAddr::new(address, port)), None] })
    }

    /// Holds the port at each of the addresses.
    ///
    /// # Errors
    /// `EADDRINUSE`: somebody else has it, who does not hold it as we do.
    pub fn hold(&self) -> Result<Hold, Errno> {
        let [first, second] = self.addresses;
        Ok(Hold { _sockets: [first.map_or(Ok(None), take)?, second.map_or(Ok(None), take)?] })
    }

    /// Somebody has it, and lets nobody in: another user's agent or watchdog, who holds it.
    pub fn is_held_elsewhere(&self) -> bool {
        let refuses = |address: &SocketAddr| match TcpStream::connect_timeout(address, ASK) {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        matches!(self.hold(), Err(Errno::ADDRINUSE)) && self.addresses.iter().flatten().all(refuses)
    }
}

/// Binds `address`; nothing when this machine has no such kind of address.
fn take(address: SocketAddr) -> Result<Option<OwnedFd>, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = match socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
        Ok(socket) => socket,
        Err(Errno::AFNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error),
    };
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    // Past the remains of connections that have ended; afterwards nobody gets past us.
    set_socket_reuseaddr(&socket, true)?;
    // Beside another hold of ours. PostgreSQL does not set it, and has to for that.
    set_socket_reuseport(&socket, true)?;
    match bind(&socket, &address) {
        Ok(()) => {}
        Err(Errno::ADDRNOTAVAIL) if address.is_ipv6() => return Ok(None),
        Err(error) => return Err(error),
    }
    set_socket_reuseaddr(&socket, false)?;
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A port nobody has, at an address of this machine.
    fn free() -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Listening { addresses: [Some(listener.local_addr().unwrap()), None] }
    }

    fn address(listening: &Listening) -> SocketAddr {
        listening.addresses[0].unwrap()
    }

    #[test]
    fn what_is_held_refuses_clients_and_lets_nobody_listen() {
        let listening = free();
        let hold = listening.hold().unwrap();
        // As PostgreSQL does; so does the standard library.
        assert!(TcpListener::bind(address(&listening)).is_err());
        let refused = TcpStream::connect_timeout(&address(&listening), ASK).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(hold);
        TcpListener::bind(address(&listening)).unwrap();
    }

    #[test]
    fn one_holds_beside_another_and_takes_it_over_without_a_gap() {
        let one = free();
        let first = one.hold().unwrap();
        let second = Listening::everywhere(address(&one).port()).hold().unwrap();
        drop(first);
        assert!(TcpListener::bind(address(&one)).is_err());
        let third = one.hold().unwrap();
        drop(second);
        assert!(TcpListener::bind(address(&one)).is_err());
        drop(third);
        TcpListener::bind(address(&one)).unwrap();
    }

    #[test]
    fn what_somebody_holds_in_another_way_is_held_elsewhere() {
        let listening = free();
        let other =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let other = other.unwrap();
        bind(&other, &address(&listening)).unwrap();
        assert_eq!(listening.hold().unwrap_err(), Errno::ADDRINUSE);
        assert!(listening.is_held_elsewhere());
        drop(other);
        assert!(!listening.is_held_elsewhere(), "nobody has it now");
    }

    #[test]
    fn a_server_that_listens_is_nobody_who_holds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = Listening { addresses: [Some(listener.local_addr().unwrap()), None] };
        assert_eq!(listening.hold().unwrap_err(), Errno::ADDRINUSE);
        assert!(!listening.is_held_elsewhere());
    }

    #[test]
    fn the_remains_of_connections_are_no_obstacle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = Listening { addresses: [Some(listener.local_addr().unwrap()), None] };
        let client = TcpStream::connect(address(&listening)).unwrap();
        // Whoever closes first keeps the port busy for a while.
        drop(listener.accept().unwrap());
        drop(listener);
        drop(client);
        listening.hold().unwrap();
    }

    #[test]
    fn all_addresses_are_held_for_a_server_that_listens_on_all() {
        let port = address(&free()).port();
        let _hold = Listening::everywhere(port).hold().unwrap();
        for address in ["127.0.0.1", "0.0.0.0"] {
            assert!(TcpListener::bind((address, port)).is_err(), "{address}");
        }
    }

    #[test]
    fn the_file_says_where() {
        let of = |text: &str| Listening::parse(text.as_bytes());
        let file = |port: &str, address: &str| {
            of(&format!("4711\n/data\n1763683200\n{port}\n/tmp\n{address}\n  1 2\nready\n"))
        };
        let one = file("5433", "127.0.0.2").unwrap();
        assert_eq!(one.addresses, [Some("127.0.0.2:5433".parse().unwrap()), None]);
        assert_eq!(file("5433", "*"), Some(Listening::everywhere(5433)));
        assert_eq!(file("5433", "db.example"), Some(Listening::everywhere(5433)));
        assert_eq!(file("5433", "::1").unwrap().addresses[0], "[::1]:5433".parse().ok());
        for (port, address) in [("5433", ""), ("0", "*"), ("x", "*"), ("70000", "*")] {
            assert_eq!(file(port, address), None, "{port} {address}");
        }
        assert_eq!(of(""), None);
        assert_eq!(of("4711\n/data\n1763683200\n5432\n/tmp\n"), None);
        assert_eq!(Listening::parse(b"\xff\xfe\n\n\n5432\n\n*\n"), None);
    }
}
