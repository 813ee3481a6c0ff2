//! The links themselves: a cut is of one direction, and ends when the last that holds it is taken back.

use std::net::UdpSocket;
use std::time::Duration;

use crate::support::netns::Network;

/// Whether a message from one machine arrives at another.
fn arrives(network: &Network, from: usize, to: usize) -> bool {
    let (sender, receiver) = (&network.nodes[from], &network.nodes[to]);
    let address = format!("{}:9000", receiver.address);
    let bound = address.clone();
    let socket = receiver.inside(move || UdpSocket::bind(bound).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    sender.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"a", address).unwrap();
    });
    socket.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_cut_is_of_one_direction_until_nobody_holds_it() {
    crate::support::postgres::need_root();
    let mut network = Network::start(&[1, 2, 3]).unwrap();
    assert!(arrives(&network, 0, 1) && arrives(&network, 1, 0));
    network.cut(0, 1).unwrap();
    network.cut(0, 1).unwrap();
    assert!(!arrives(&network, 0, 1));
    assert!(arrives(&network, 1, 0) && arrives(&network, 0, 2) && arrives(&network, 2, 1));
    network.mend(0, 1).unwrap();
    assert!(!arrives(&network, 0, 1), "one still holds it");
    network.mend(0, 1).unwrap();
    assert!(arrives(&network, 0, 1));
}

#[test]
fn a_lossy_link_loses_some_and_not_all() {
    crate::support::postgres::need_root();
    let mut network = Network::start(&[1, 2]).unwrap();
    network.set_lossy(0, true).unwrap();
    let arrived = |network: &Network| {
        let address = format!("{}:9000", network.nodes[1].address);
        let bound = address.clone();
        let socket = network.nodes[1].inside(move || UdpSocket::bind(bound).unwrap());
        socket.set_nonblocking(true).unwrap();
        network.nodes[0].inside(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..100 {
                socket.send_to(b"a", &address).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
    };
    let some = arrived(&network);
    assert!((30..95).contains(&some), "{some} of 100");
    network.set_lossy(0, false).unwrap();
    assert_eq!(arrived(&network), 100);
}
