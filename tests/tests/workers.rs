//! Workers: the same files give the same bytes, however many processes and workers there are and
//! however the files come; and they are the bytes that a slow, obvious program writes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_bench::generate::{Dataset, Shape as Size, files};
use tidemill_tests::{Shape, Site, Tree, oracle, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const ACCESS_LOGS: &str = include_str!("../../examples/access-logs/pipeline.yaml");
const AUTH_GUARD: &str = include_str!("../../examples/auth-guard/pipeline.yaml");

const SHAPES: [Shape; 5] =
    [Shape::ALONE, Shape::new(1, 2), Shape::new(1, 3), Shape::new(2, 1), Shape::new(2, 2)];

/// How files come.
#[derive(Clone, Copy, Debug)]
enum Feed {
    /// They are there before the start, and `--once` takes them.
    AtOnce,
    /// They are renamed into the folder one by one while the server runs.
    Dropped,
    /// A client sends them one by one, without waiting for their end.
    Submitted,
}

#[test]
fn oracle_access_logs_files_that_are_there_before_the_start() {
    check(ACCESS_LOGS, &weblogs(), oracle::access_logs, Feed::AtOnce);
}

#[test]
fn oracle_access_logs_files_dropped_one_by_one() {
    check(ACCESS_LOGS, &weblogs(), oracle::access_logs, Feed::Dropped);
}

#[test]
fn oracle_access_logs_files_sent_by_a_client() {
    check(ACCESS_LOGS, &weblogs(), oracle::access_logs, Feed::Submitted);
}

#[test]
fn oracle_auth_guard_files_that_are_there_before_the_start() {
    check(AUTH_GUARD, &auth_logs(), oracle::auth_guard, Feed::AtOnce);
}

#[test]
fn oracle_auth_guard_files_dropped_one_by_one() {
    check(AUTH_GUARD, &auth_logs(), oracle::auth_guard, Feed::Dropped);
}

#[test]
fn oracle_auth_guard_files_sent_by_a_client() {
    check(AUTH_GUARD, &auth_logs(), oracle::auth_guard, Feed::Submitted);
}

fn check(pipeline: &str, inputs: &Tree, oracle: fn(&Tree) -> Tree, feed: Feed) {
    let expected = oracle(inputs);
    for shape in SHAPES {
        let site = Site::new(NODE, pipeline);
        run(&site, shape, inputs, feed);
        if let Some(difference) = tree::difference(&expected, &site.out()) {
            panic!("{feed:?}, {shape}:\n{difference}");
        }
        let arrived = tree::read(&site.folder("processed"));
        assert_eq!(tree::difference(inputs, &arrived), None, "{feed:?}, {shape}: processed/");
    }
}

fn run(site: &Site, shape: Shape, inputs: &Tree, feed: Feed) {
    let put = || inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    if let Feed::AtOnce = feed {
        put();
        site.once(shape).expect_code(0);
        return;
    }
    let running = site.start(shape);
    if let Feed::Dropped = feed {
        put();
    } else {
        inputs.iter().for_each(|(name, bytes)| drop(running.submit(name, bytes)));
    }
    running.wait_for_finished(inputs.len() as u64);
    running.stop();
}

fn generated(dataset: Dataset, count: usize, records: u64) -> Tree {
    let size = Size { seed: 7, files: count, records };
    files(dataset, size).map(|file| (file.name, file.content)).collect()
}

/// Some files of more than one piece, some small ones, and one of exceptions.
fn weblogs() -> Tree {
    let mut inputs = generated(Dataset::WeblogJsonl, 3, 5_000);
    inputs.extend(generated(Dataset::Small, 20, 0));
    let exceptions = concat!(
        "{\"host\":null,\"status\":200,\"bytes\":5,\"latency_ms\":0.5}\n",
        "{\"status\":200,\"bytes\":6,\"latency_ms\":0.25}\n",
        "{\"host\":\"\",\"status\":null}\n",
        "{\"host\":\"a, \\\"b\\\"\",\"status\":404,\"latency_ms\":1e3}\n",
        "{\"host\":\"web-001\",\"status\":-1,\"bytes\":-7}\n",
        "{\"host\":\"web-001\",\"status\":500,\"bytes\":-7}\n",
        "{ \"status\" : 599 , \"host\" : \"gr\\u00fcn\" }",
    );
    inputs.insert("exceptions.jsonl".into(), exceptions.into());
    inputs.insert("nothing.jsonl".into(), Vec::new());
    inputs
}

fn auth_logs() -> Tree {
    let mut inputs = generated(Dataset::Auth, 3, 6_000);
    let exceptions = concat!(
        "sshd[1]: Failed password for root from 10.0.0.1 port 22 ssh2\n",
        "sshd[1]: Failed password for invalid user  from 10.0.0.1 port 7 ssh2\n",
        "sshd[1]: Failed password for invalid user a from b from ::1 port 9\n",
        "sshd[1]: Failed password for invalid user \"x,y\" from fe80::1 port 9\n",
        "sshd[1]: Failed password for invalid user nobody\n",
        "sshd[1]: Failed password for root from nowhere port 22\n",
        "sshd: Failed password for root from 10.0.0.1 port 1 ssh2\n",
        "sshd[2]: Accepted password for root from 10.0.0.1 port 1 ssh2\r\n",
        "sshd[2]: Failed password for root from 10.0.0.2 port 44 ssh2",
    );
    inputs.insert("auth-exceptions.log".into(), exceptions.into());
    inputs.insert("ssh-quiet.log".into(), b"nothing happened\n".to_vec());
    inputs
}
