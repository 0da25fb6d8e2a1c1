//! Batches that change workers: inside a process, as bytes, and between two processes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use tidemill_operators::aggregate::KeyEncoder;
use tidemill_operators::batch::rows_without_columns;
use tidemill_operators::exchange::{by_key, key_hash, whole};
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input, Inspect, Operator, Probe};
use timely::worker::Worker;
use timely::{CommunicationConfig, Config, WorkerConfig};

/// The port on which the first process waits for the second.
const PORT: &str = "TIDEMILL_TEST_EXCHANGE_PORT";
/// Chunks that all workers together read.
const CHUNKS: u64 = 60;

fn chunk(number: u64) -> Batch {
    let rows = || (0..50_u64).map(move |row| number * 50 + row);
    let schema =
        Schema::new(vec![Column::new("host", Type::String), Column::new("status", Type::Int)]);
    let host = |n: u64| {
        (!n.is_multiple_of(7)).then(|| format!("host-{}{}", n % 13, "x".repeat((n % 20) as usize)))
    };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows().map(host).collect::<StringViewArray>()),
        Arc::new(rows().map(|n| Some((n % 5) as i64)).collect::<Int64Array>()),
    ];
    Batch {
        columns: RecordBatch::try_new(schema.arrow(), arrays).unwrap(),
        raw: Some(BinaryViewArray::from_iter_values(rows().map(|n| format!("{n}\u{e9}\n")))),
        positions: Some(UInt64Array::from_iter_values(rows())),
        diff: 1,
        origin: Origin { submission: 9, chunk: number, offset: 0 },
    }
}

/// Every row as a line of text.
fn lines(batch: &Batch) -> Vec<String> {
    let (host, status) = (batch.columns.column(0), batch.columns.column(1));
    let (host, status) = (host.as_string_view(), status.as_primitive::<Int64Type>());
    let (raw, positions) = (batch.raw.as_ref().unwrap(), batch.positions.as_ref().unwrap());
    let line = |row: usize| {
        let host = host.is_valid(row).then(|| host.value(row));
        let raw = raw.value(row).escape_ascii();
        format!(
            "{host:?} {} {raw} {} {} {:?}",
            status.value(row),
            positions.value(row),
            batch.diff,
            batch.origin
        )
    };
    (0..batch.len()).map(line).collect()
}

/// Reads its chunks, exchanges them by key and then as a whole; returns the rows seen here.
fn work(worker: &mut Worker) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let (index, peers) = (worker.index(), worker.peers());
    let (mut input, probe) = worker.dataflow::<Time, _, _>(|scope| {
        let (input, stream) = scope.new_input::<Batch>();
        let probe = stream
            .unary::<CapacityContainerBuilder<Batch>, _, _, _>(
                by_key(vec![0, 1]),
                "Keys",
                |_, _| {
                    move |input, output| {
                        input.for_each_stamp(|stamp, batches| {
                            let batches = batches.inspect(|batch| {
                                let columns = batch.columns.columns();
                                let encoder = KeyEncoder::new(columns);
                                for row in 0..batch.len() {
                                    let mut key = Vec::new();
                                    encoder.append(row, &mut key);
                                    assert_eq!(key_hash(&key) as usize % peers, index);
                                }
                            });
                            output.session(&stamp).give_containers(batches);
                        });
                    }
                },
            )
            .unary::<CapacityContainerBuilder<Batch>, _, _, _>(
                whole(|batch| batch.origin.chunk),
                "Whole",
                |_, _| {
                    move |input, output| {
                        input.for_each_stamp(|stamp, batches| {
                            output.session(&stamp).give_containers(batches);
                        });
                    }
                },
            )
            .inspect_core(move |event| {
                if let Ok((_, batch)) = event {
                    assert_eq!(batch.origin.chunk as usize % peers, index);
                    kept.lock().unwrap().extend(lines(batch));
                }
            })
            .probe()
            .0;
        (input, probe)
    });
    for number in 0..CHUNKS {
        input.advance_to(Time::new(1, number));
        if number as usize % peers == index {
            input.send_batch(&mut chunk(number));
            worker.step();
        }
    }
    drop(input);
    worker.step_while(|| !probe.done());
    std::mem::take(&mut *seen.lock().unwrap())
}

fn run(config: Config) -> Vec<String> {
    let guards = timely::execute(config, work).unwrap();
    sorted(guards.join().into_iter().flat_map(Result::unwrap).collect())
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

fn expected() -> Vec<String> {
    sorted((0..CHUNKS).flat_map(|number| lines(&chunk(number))).collect())
}

fn binary(workers: usize) -> Config {
    let communication = CommunicationConfig::ProcessBinary(workers);
    Config { communication, worker: WorkerConfig::default() }
}

#[test]
fn workers_of_one_process_see_every_row_once() {
    assert_eq!(run(Config::thread()), expected());
    assert_eq!(run(Config::process(3)), expected());
}

#[test]
fn workers_that_pass_bytes_see_every_row_once() {
    assert_eq!(run(binary(2)), expected());
    assert_eq!(run(binary(3)), expected());
}

#[test]
fn rows_without_columns_cross_and_are_counted() {
    let guards = timely::execute(binary(2), |worker| {
        let seen = Arc::new(Mutex::new(0));
        let kept = Arc::clone(&seen);
        let index = worker.index();
        let (mut input, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Batch>();
            let to_other = whole(move |_: &Batch| index as u64 + 1);
            let probe = stream
                .unary::<CapacityContainerBuilder<Batch>, _, _, _>(to_other, "Whole", |_, _| {
                    move |input, output| {
                        input.for_each_stamp(|stamp, batches| {
                            output.session(&stamp).give_containers(batches);
                        });
                    }
                })
                .inspect_core(move |event| {
                    if let Ok((_, batch)) = event {
                        *kept.lock().unwrap() += batch.len();
                    }
                })
                .probe()
                .0;
            (input, probe)
        });
        for epoch in 1..=10 {
            input.advance_to(Time::new(epoch, 0));
            let columns = rows_without_columns(1000 + index);
            input.send_batch(&mut Batch { columns, ..Batch::default() });
        }
        drop(input);
        worker.step_while(|| !probe.done());
        *seen.lock().unwrap()
    });
    let mut seen: Vec<usize> = guards.unwrap().join().into_iter().map(Result::unwrap).collect();
    seen.sort_unstable();
    assert_eq!(seen, [10_000, 10_010]);
}

/// Runs the two workers of process `index`, which talks to the other one over this socket.
fn run_process(index: usize, socket: TcpStream) -> Vec<String> {
    socket.set_nodelay(true).unwrap();
    let hooks = Hooks::default();
    let inner = ProcessBuilder::new_typed_vector(2, hooks.refill.clone(), None);
    let mut sockets = vec![None, None];
    sockets[1 - index] = Some(socket);
    let (builders, guard) =
        initialize_networking_from_sockets(inner, sockets, index, 2, hooks).unwrap();
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let guards =
        timely::execute::execute_from(builders, Box::new(guard), WorkerConfig::default(), work);
    guards.unwrap().join().into_iter().flat_map(Result::unwrap).collect()
}

#[test]
fn two_processes_see_the_same_rows_as_one_worker() {
    if let Ok(port) = std::env::var(PORT) {
        return the_other_process(&port);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["two_processes_see_the_same_rows_as_one_worker", "--exact", "--nocapture"])
        .env(PORT, port)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (socket, _) = listener.accept().unwrap();
    let mut rows = run_process(0, socket);
    let mut theirs = String::new();
    other.stderr.take().unwrap().read_to_string(&mut theirs).unwrap();
    assert!(other.wait().unwrap().success(), "{theirs}");
    let theirs: Vec<String> =
        theirs.lines().filter_map(|line| line.strip_prefix("row ").map(str::to_owned)).collect();
    assert!(!theirs.is_empty());
    rows.extend(theirs);
    assert_eq!(sorted(rows), expected());
}

/// What the second process of the test above does: the same test, with a port to call.
fn the_other_process(port: &str) {
    let socket = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
    for row in run_process(1, socket) {
        eprintln!("row {row}");
    }
}
