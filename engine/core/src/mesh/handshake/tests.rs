//! What a handshake proves, and what it makes of bytes that prove nothing.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::Heartbeat;
use super::*;

fn identity(index: usize) -> Identity {
    let endpoint = |n| Endpoint::Unix(format!("/{n}").into());
    Identity::new(&MeshConfig {
        index,
        endpoints: vec![endpoint(0), endpoint(1)],
        workers: 1,
        token: vec![3; 32],
        plan_hash: [1; 32],
        binary_version: "1".to_string(),
        generation: (index == 0).then_some(5),
        deadline: Duration::ZERO,
        heartbeat: Heartbeat::USUAL,
    })
    .unwrap()
}

fn dial(stream: UnixStream) -> Result<Hello, Failure> {
    identity(1).dial(stream, Role::Data, 0, &Endpoint::Unix("/0".into()))
}

/// Runs a handshake in which one byte on the way to either side is changed: `at` counts the bytes
/// of that direction. Returns whether each side believes in the other.
fn tampered(to_acceptor: Option<usize>, to_dialer: Option<usize>) -> (bool, bool) {
    let [(dialer, dialer_wire), (acceptor, acceptor_wire)] =
        [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
    for stream in [&dialer, &acceptor] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let pump = |from: &UnixStream, to: &UnixStream, at: Option<usize>| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let (mut byte, mut place) = ([0], 0);
            while from.read_exact(&mut byte).is_ok() {
                byte[0] ^= u8::from(Some(place) == at);
                place += 1;
                if to.write_all(&byte).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        })
    };
    let pumps = [
        pump(&dialer_wire, &acceptor_wire, to_acceptor),
        pump(&acceptor_wire, &dialer_wire, to_dialer),
    ];
    let dialer = std::thread::spawn(move || dial(dialer).is_ok());
    let accepted = identity(0).accept(acceptor, |_| Ok(())).is_ok();
    let dialled = dialer.join().unwrap();
    drop((dialer_wire, acceptor_wire));
    pumps.into_iter().for_each(|pump| pump.join().unwrap());
    (dialled, accepted)
}

#[test]
fn a_byte_changed_on_the_way_is_noticed() {
    assert_eq!(tampered(None, None), (true, true));
    let hello = PREAMBLE_BYTES + 2 + identity(0).hello.encode().len() + 32;
    let verdict = 2 + 32;
    // A changed length only changes how much is waited for, until the deadline: left out.
    let in_length = |at: &usize| [PREAMBLE_BYTES, hello].iter().any(|l| (*l..l + 2).contains(at));
    for at in (0..hello + verdict).filter(|at| !in_length(at)).step_by(3) {
        let (dialled, accepted) = tampered(Some(at), None);
        assert!(!(dialled && accepted), "byte {at} to the acceptor");
        assert!(!accepted, "byte {at} to the acceptor");
    }
    for at in (0..hello + verdict).filter(|at| !in_length(at)).step_by(3) {
        let (dialled, _) = tampered(None, Some(at));
        assert!(!dialled, "byte {at} to the dialer");
    }
}

#[test]
fn what_a_dialer_said_does_not_prove_anything_when_sent_back() {
    let (dialer, mirror) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || io::copy(&mut &mirror, &mut &mirror));
    let result = dial(dialer);
    assert!(matches!(result, Err(Failure::Final(MeshError::Token { .. }))), "{result:?}");
    let _ = echo.join().unwrap();
}

/// What an acceptor makes of bytes after which nothing comes.
#[track_caller]
fn check_noise(bytes: &[u8], expected: &str) {
    let (acceptor, mut stranger) = UnixStream::pair().unwrap();
    stranger.write_all(bytes).unwrap();
    stranger.shutdown(std::net::Shutdown::Write).unwrap();
    match identity(0).accept(acceptor, |_| panic!("nobody proved anything")) {
        Err(Failure::Noise(text) | Failure::Passing(text)) => assert_eq!(text, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_unproven_is_more_than_noise() {
    let preamble = |version: u16| [&b"tidemill"[..], &version.to_be_bytes(), &[0; 32]].concat();
    let then = |tail: &[u8]| [&preamble(PROTOCOL)[..], tail].concat();
    check_noise(b"", "the connection was closed");
    check_noise(b"GET / HTTP/1.1\r\n\r\n", "it is not a tidemill process");
    check_noise(b"tidemill", "the connection was closed");
    check_noise(&preamble(3), "it speaks version 3 of the mesh, we speak version 2");
    check_noise(&preamble(PROTOCOL), "the connection was closed");
    check_noise(&then(b"\x04\x01"), "it announces a message of 1025 bytes");
    check_noise(&then(&[0; 34]), "it has another token");
    check_noise(&then(b"\xff\xff"), "it has another token");
}

#[test]
fn a_hello_is_read_back_and_a_cut_one_is_not() {
    let hello = Hello { role: Role::Control, ..identity(0).hello };
    let bytes = hello.encode();
    assert_eq!(Hello::decode(&bytes), Some((hello.clone(), String::new())));
    let with_text = [&bytes[..], b"no\x1b[2J"].concat();
    assert_eq!(Hello::decode(&with_text), Some((hello, "no[2J".to_string())));
    for length in 0..bytes.len() {
        assert_eq!(Hello::decode(&bytes[..length]), None, "{length}");
    }
}
