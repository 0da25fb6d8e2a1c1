//! The start of a mesh: who may join, what everybody else is told, and that strangers harm nobody.
#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_engine::mesh::{
    ControlError, ControlEvent, Endpoint, Heartbeat, MESSAGE_BYTES_MAX, Mesh, MeshConfig,
    MeshError, Socket, connect,
};
use timely::dataflow::operators::vec::ToStream;
use timely::dataflow::operators::{Exchange, Inspect, Probe};

const WAIT: Duration = Duration::from_secs(20);

fn tcp(count: usize) -> Vec<Endpoint> {
    // All are held until all are known, so that no two get the same port.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|l| Endpoint::Tcp(l.local_addr().unwrap().to_string())).collect()
}

fn unix(count: usize) -> (TempDir, Vec<Endpoint>) {
    let folder = tempfile::tempdir().unwrap();
    let endpoints =
        (0..count).map(|index| Endpoint::Unix(folder.path().join(format!("{index}.sock"))));
    let endpoints = endpoints.collect();
    (folder, endpoints)
}

fn config(index: usize, endpoints: &[Endpoint]) -> MeshConfig {
    MeshConfig {
        index,
        endpoints: endpoints.to_vec(),
        workers: 2,
        token: vec![7; 32],
        plan_hash: [0xab; 32],
        binary_version: "0.1.0".to_string(),
        generation: (index == 0).then_some(41),
        deadline: WAIT,
        heartbeat: Heartbeat::USUAL,
    }
}

/// Starts all processes at once, each as a thread.
fn start(configs: Vec<MeshConfig>) -> Vec<Result<Mesh, MeshError>> {
    let threads: Vec<_> =
        configs.into_iter().map(|config| std::thread::spawn(move || connect(&config))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn start_well(endpoints: &[Endpoint]) -> Vec<Mesh> {
    let configs = (0..endpoints.len()).map(|index| config(index, endpoints)).collect();
    start(configs).into_iter().map(Result::unwrap).collect()
}

/// Runs a dataflow with an exchange on every process; returns the sum that each worker saw.
fn run_to_the_end(meshes: Vec<Mesh>, workers: usize) -> Vec<u64> {
    let threads: Vec<_> = meshes
        .into_iter()
        .map(|mesh| {
            std::thread::spawn(move || {
                let (builders, guard, _control) = mesh.into_builders(workers).unwrap();
                let config = timely::WorkerConfig::default();
                let guards = timely::execute::execute_from(builders, guard, config, |worker| {
                    let peers = worker.peers() as u64;
                    let sum = Rc::new(Cell::new(0));
                    let seen = Rc::clone(&sum);
                    let probe = worker.dataflow::<u64, _, _>(|scope| {
                        (0..1000u64)
                            .to_stream(scope)
                            .exchange(move |number| number % peers)
                            .inspect(move |number| seen.set(seen.get() + number))
                            .probe()
                            .0
                    });
                    worker.step_while(|| !probe.done());
                    sum.get()
                });
                guards.unwrap().join().into_iter().map(Result::unwrap).collect::<Vec<u64>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[track_caller]
fn check_dataflow(endpoints: &[Endpoint]) {
    let meshes = start_well(endpoints);
    assert!(meshes.iter().all(|mesh| mesh.generation == 41), "all learn the generation");
    for (index, mesh) in meshes.iter().enumerate() {
        let connected: Vec<bool> = mesh.sockets.iter().map(Option::is_some).collect();
        let expected: Vec<bool> = (0..endpoints.len()).map(|peer| peer != index).collect();
        assert_eq!(connected, expected);
        for socket in mesh.sockets.iter().flatten() {
            let timeout = match socket {
                Socket::Tcp(stream) => stream.read_timeout(),
                Socket::Unix(stream) => stream.read_timeout(),
            };
            assert_eq!(timeout.unwrap(), None, "the time limits end with the handshake");
        }
    }
    let workers = 2 * endpoints.len() as u64;
    let expected: Vec<u64> = (0..workers)
        .map(|worker| (0..1000).filter(|n| n % workers == worker).sum::<u64>() * workers)
        .collect();
    assert_eq!(run_to_the_end(meshes, 2), expected);
}

#[test]
fn a_dataflow_runs_over_a_mesh() {
    check_dataflow(&tcp(1));
    check_dataflow(&tcp(2));
    check_dataflow(&tcp(3));
    check_dataflow(&unix(2).1);
    check_dataflow(&unix(3).1);
}

/// Two processes whose second differs: what the first and the second are told.
#[track_caller]
fn check_refused(change: impl Fn(&mut MeshConfig), zero_says: &str, one_says: &str) {
    let (_folder, sockets) = unix(2);
    for endpoints in [sockets, tcp(2)] {
        let mut configs = vec![config(0, &endpoints), config(1, &endpoints)];
        change(&mut configs[1]);
        // A process goes on waiting when what it refused may yet be followed by the right one.
        configs.iter_mut().for_each(|config| config.deadline = Duration::from_secs(1));
        let text = |result: &Result<Mesh, MeshError>| result.as_ref().unwrap_err().to_string();
        let results = start(configs);
        let (zero, one) = (text(&results[0]), text(&results[1]));
        assert!(zero.contains(zero_says), "process 0 says {zero:?}, not {zero_says:?}");
        assert!(one.contains(one_says), "process 1 says {one:?}, not {one_says:?}");
    }
}

#[test]
fn a_process_that_runs_something_else_is_refused_on_both_sides() {
    check_refused(|one| one.token[31] ^= 1, "it has another token", "has another token: give all");
    check_refused(
        |one| one.plan_hash[0] = 0xcd,
        "process 1 runs plan cdababababab, process 0 runs plan abababababab: start all processes \
         with the same pipeline file",
        "process 0 runs plan abababababab, process 1 runs plan cdababababab: start all processes \
         with the same pipeline file",
    );
    check_refused(
        |one| one.workers = 3,
        "process 1 runs 3 workers, process 0 runs 2 workers: start all processes with the same -w",
        "process 0 runs 2 workers, process 1 runs 3 workers: start all processes with the same -w",
    );
    check_refused(
        |one| one.binary_version = "0.2.0".to_string(),
        "process 1 is version \"0.2.0\", process 0 is version \"0.1.0\": start all processes from \
         the same binary",
        "process 0 is version \"0.1.0\", process 1 is version \"0.2.0\"",
    );
    check_refused(
        |one| one.generation = Some(40),
        "process 1 is of the older generation 40, this start is generation 41",
        "process 0 is of generation 41, process 1 of the older generation 40",
    );
    check_refused(
        |one| one.generation = Some(42),
        "process 1 is of generation 42, process 0 of the older generation 41",
        "process 0 is of the older generation 41, this start is generation 42",
    );
}

#[test]
fn a_different_number_of_processes_is_refused_on_both_sides() {
    let endpoints = tcp(3);
    let mut one = config(1, &endpoints);
    one.endpoints.pop();
    let results = start(vec![config(0, &endpoints), one]);
    let texts: Vec<String> =
        results.iter().map(|result| result.as_ref().unwrap_err().to_string()).collect();
    let hint = "start all processes with the same -n and host file";
    assert_eq!(
        texts[0],
        format!("process 1 counts 2 processes, process 0 counts 3 processes: {hint}")
    );
    assert_eq!(
        texts[1],
        format!("process 0 counts 3 processes, process 1 counts 2 processes: {hint}")
    );
}

#[test]
fn a_second_process_with_the_same_index_is_refused() {
    let endpoints = tcp(3);
    let mut configs = vec![config(0, &endpoints), config(1, &endpoints), config(1, &endpoints)];
    // The second one listens elsewhere, as on another host that has the same index by mistake.
    configs[2].endpoints[1] = tcp(1).remove(0);
    configs.iter_mut().for_each(|config| config.deadline = Duration::from_secs(1));
    let texts: Vec<String> =
        start(configs).into_iter().map(|result| result.unwrap_err().to_string()).collect();
    let refused = "process 1 is connected already: start each process with an index of its own";
    assert!(texts[0].contains(refused), "{texts:?}");
    let count = texts[1..].iter().filter(|text| text.contains(refused)).count();
    assert_eq!(count, 1, "the one that came second: {texts:?}");
}

#[test]
fn hosts_in_another_order_are_named() {
    let endpoints = tcp(3);
    let mut two = config(2, &endpoints);
    two.endpoints.swap(0, 1);
    let mut one = config(1, &endpoints);
    one.deadline = Duration::from_secs(2);
    let mut zero = config(0, &endpoints);
    zero.deadline = Duration::from_secs(2);
    let results = start(vec![zero, one, two]);
    let text = results[2].as_ref().unwrap_err().to_string();
    assert!(text.contains("answers process 1, not process 0"), "{text}");
}

#[test]
fn a_missing_process_is_named_within_the_deadline() {
    let endpoints = tcp(3);
    let began = Instant::now();
    let mut configs = vec![config(0, &endpoints), config(2, &endpoints)];
    configs.iter_mut().for_each(|config| config.deadline = Duration::from_millis(700));
    let results = start(configs);
    assert!(began.elapsed() < Duration::from_secs(3));
    for result in results {
        let MeshError::Missing { peers, .. } = result.as_ref().unwrap_err() else {
            panic!("{result:?}");
        };
        assert_eq!(peers.iter().map(|peer| peer.index).collect::<Vec<_>>(), [1], "{result:?}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains(&format!("process 1 ({}", endpoints[1])), "{text}");
    }
}

#[test]
fn a_left_over_socket_file_does_not_stop_the_next_start() {
    let (folder, endpoints) = unix(2);
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("0.sock")).unwrap());
    start_well(&endpoints);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "sockets go with the start");
}

#[track_caller]
fn check_config(change: impl Fn(&mut MeshConfig), expected: &str) {
    let mut zero = config(0, &[Endpoint::Tcp("a:1".to_string()), Endpoint::Tcp("b:2".to_string())]);
    change(&mut zero);
    assert_eq!(connect(&zero).unwrap_err().to_string(), format!("set up the mesh: {expected}"));
}

#[test]
fn settings_that_make_no_mesh_are_refused_before_anything_starts() {
    check_config(|zero| zero.index = 2, "index 2 of 2 processes: they count from 0");
    check_config(|zero| zero.workers = 0, "0 workers in each process");
    check_config(|zero| zero.token.truncate(3), "a token of 3 bytes, at least 16 are needed");
    check_config(|zero| zero.generation = None, "process 0 has to announce a generation");
    check_config(
        |zero| zero.endpoints[1] = Endpoint::Unix("/x".into()),
        "some endpoints are Unix sockets and some are not",
    );
    check_config(
        |zero| zero.endpoints[1] = Endpoint::Tcp("a:1".into()),
        "processes 0 and 1 both listen at a:1",
    );
    check_config(
        |zero| zero.endpoints[1] = Endpoint::Tcp("b".into()),
        "endpoint \"b\": the port is missing",
    );
}

/// Numbers that look random and are the same in each run.
fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    }
}

fn stranger(number: u64, address: &str, held: &mut Vec<TcpStream>) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let mut random = noise(number + 1);
    let garbage: Vec<u8> = (0..1 + number as usize % 300).map(|_| random()).collect();
    let tail = [&b"tidemill\0\x01"[..], &[9; 32], &garbage].concat();
    let sent = match number % 6 {
        0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        2 => Ok(()),                  // comes and goes
        3 => stream.write_all(&tail), // speaks our language, then nonsense
        4 => stream.write_all(&tail[..20]),
        _ => stream.write_all(&garbage),
    };
    if sent.is_ok() && number % 50 == 4 {
        held.push(stream); // stays, and is silent
    }
}

#[test]
fn strangers_neither_stop_nor_delay_a_start() {
    let endpoints = tcp(2);
    let address = endpoints[0].to_string();
    let zero = config(0, &endpoints);
    let zero = std::thread::spawn(move || connect(&zero));
    let mut held = Vec::new();
    while held.len() < 8 {
        if let Ok(stream) = TcpStream::connect(&address) {
            held.push(stream); // silent from the first moment
        }
    }
    for number in 0..1000 {
        stranger(number, &address, &mut held);
    }
    let began = Instant::now();
    let one = connect(&config(1, &endpoints)).unwrap();
    let zero = zero.join().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(run_to_the_end(vec![zero, one], 2).len(), 4);
    // Nobody is left hanging once the mesh is complete.
    for mut stream in held {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let end = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(!matches!(end, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{end:?}");
    }
}

#[test]
fn strangers_that_keep_coming_do_not_keep_a_process_out() {
    let endpoints = tcp(2);
    let address = endpoints[0].to_string();
    let over = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(Barrier::new(2));
    let (stop, begin) = (Arc::clone(&over), Arc::clone(&ready));
    let crowd = std::thread::spawn(move || {
        let mut held = Vec::new();
        begin.wait();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            stranger(number, &address, &mut held);
            if let Ok(stream) = TcpStream::connect(&address) {
                held.push(stream); // silent ones fill every place at the door
            }
            if held.len() > 200 {
                held.clear();
            }
        }
    });
    ready.wait();
    let began = Instant::now();
    let meshes = start_well(&endpoints);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    over.store(true, Ordering::Relaxed);
    crowd.join().unwrap();
    assert_eq!(run_to_the_end(meshes, 2).len(), 4);
}

#[test]
fn control_messages_go_both_ways_and_a_loss_is_told_once() {
    let message = |from, bytes: &[u8]| Some(ControlEvent::Message(from, bytes.to_vec()));
    let mut meshes = start_well(&tcp(3));
    let two = meshes.pop().unwrap().control;
    let one = meshes.pop().unwrap().control;
    let zero = meshes.pop().unwrap().control;
    assert_eq!(zero.sender().peers().collect::<Vec<_>>(), [1, 2]);

    one.send(0, b"from one").unwrap();
    assert_eq!(zero.recv_timeout(WAIT), message(1, b"from one"));
    zero.broadcast(b"to all").unwrap();
    assert_eq!(one.recv_timeout(WAIT), message(0, b"to all"));
    assert_eq!(two.recv_timeout(WAIT), message(0, b"to all"));
    two.send(0, b"").unwrap();
    assert_eq!(zero.recv_timeout(WAIT), message(2, b""));

    let large = vec![5; MESSAGE_BYTES_MAX];
    let sender = two.sender();
    let sent = large.clone();
    let sending = std::thread::spawn(move || sender.send(0, &sent));
    assert_eq!(zero.recv_timeout(WAIT), message(2, &large));
    sending.join().unwrap().unwrap();
    let too_long = two.send(0, &vec![0; MESSAGE_BYTES_MAX + 1]);
    assert!(matches!(too_long, Err(ControlError::TooLong { .. })), "{too_long:?}");
    assert!(matches!(one.send(2, b"x"), Err(ControlError::NotAPeer { to: 2 })));

    two.send(0, b"last words").unwrap();
    drop(two);
    assert_eq!(zero.recv_timeout(WAIT), message(2, b"last words"));
    assert_eq!(zero.recv_timeout(WAIT), Some(ControlEvent::Lost(2)));
    assert!(matches!(zero.broadcast(b"still there?"), Err(ControlError::Lost { to: 2, .. })));
    assert_eq!(one.recv_timeout(WAIT), message(0, b"still there?"));
    drop(zero);
    assert_eq!(one.recv(), Some(ControlEvent::Lost(0)));
    assert_eq!(one.recv(), None);
}

#[test]
fn another_number_of_workers_than_agreed_is_refused() {
    let mesh = start_well(&tcp(1)).remove(0);
    let error = mesh.into_builders(3).err().unwrap().to_string();
    assert_eq!(error, "set up the mesh: the processes agreed on 2 workers each, 3 were asked for");
}
