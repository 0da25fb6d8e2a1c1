//! Web server records: 9 fields, as JSON lines or as CSV.
//!
//! It owns the vocabulary (hosts, paths, agents) and the distributions. All numbers are integers
//! until they are printed digit by digit: latency is kept in microseconds.

use crate::calendar::Civil;
use crate::random::{Random, Zipf};

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Jsonl,
    Csv,
}

/// 2026-01-05T00:00:00Z, a Monday.
const START_UNIX_SECONDS: u64 = 1_767_571_200;
/// The time between two records of a file is uniform in `0..STEP_MS`.
const STEP_MS: u64 = 24;
const HOSTS: u64 = 200;
const PATHS: usize = 5_000;
const USERS: u64 = 100_000;
/// The stream of the generator that makes the vocabulary; files use their own number.
const VOCABULARY_STREAM: u64 = u64::MAX;

const METHODS: [&str; 8] = ["GET", "GET", "GET", "GET", "GET", "POST", "PUT", "HEAD"];
const GOOD: [u16; 6] = [200, 201, 204, 301, 302, 304];
const CLIENT_ERRORS: [u16; 4] = [400, 401, 403, 404];
const SERVER_ERRORS: [u16; 3] = [500, 502, 503];

const SECTIONS: [&str; 12] = [
    "shop",
    "api/v2",
    "static",
    "blog",
    "account",
    "search",
    "media",
    "docs",
    "cart",
    "admin",
    "assets/img",
    "help",
];
const WORDS: [&str; 16] = [
    "harbor", "lantern", "meadow", "copper", "violet", "anchor", "timber", "willow", "summit",
    "gravel", "saddle", "orchid", "marble", "falcon", "cinder", "ripple",
];
const ENDINGS: [&str; 5] = ["", "/", ".html", ".json", "/edit"];

const AGENTS: [&str; 12] = [
    "curl/8.11.1",
    "Wget/1.24.5 (linux-gnu)",
    "python-requests/2.32.3",
    "Go-http-client/2.0",
    "okhttp/4.12.0",
    "Mozilla/5.0 (compatible; Tidebot/2.1; +https://bot.example.net/about)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:134.0) Gecko/20100101 Firefox/134.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) (KHTML, like Gecko) Safari/604",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) (KHTML, like Gecko) Chrome/130.0 Mobile",
];
/// Agents with quotes, which JSON writes as `\"` and CSV as `""`: 2 of 1,000 records.
const QUOTED_AGENTS: [&str; 2] =
    ["Mozilla/5.0 (\"Smart\" TV; Linux) TideView/3.2", "probe \"health, deep\" (internal) 1.0"];

/// The records of one file, one after the other, without an end.
pub(super) struct WeblogLines {
    layout: Layout,
    header_due: bool,
    random: Random,
    unix_ms: u64,
    /// The text of the current second: `2026-01-05T00:00:00.`
    second: (u64, Vec<u8>),
    paths: Vec<String>,
    popularity: Zipf,
}

impl WeblogLines {
    /// Prepares one file; `records` a file decide how far apart in time the files begin.
    pub(super) fn new(layout: Layout, seed: u64, index: u64, records: u64) -> Self {
        let slot_ms = records * STEP_MS / 2;
        Self {
            layout,
            header_due: layout == Layout::Csv,
            random: Random::new(seed, index),
            unix_ms: START_UNIX_SECONDS * 1_000 + index * slot_ms,
            second: (0, Vec::new()),
            paths: paths(seed),
            popularity: Zipf::new(PATHS),
        }
    }

    /// Appends the next record with its newline; before the first record of a CSV file, the header.
    pub(super) fn append(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.header_due) {
            out.extend_from_slice(b"ts,host,path,method,status,bytes,latency_ms,user,ua\n");
        }
        self.unix_ms += self.random.below(STEP_MS);
        let host = self.random.below(HOSTS);
        let path = self.popularity.draw(&mut self.random);
        let method = *self.random.pick(&METHODS);
        let status = status(&mut self.random);
        let bytes = size(&mut self.random);
        let latency_us = latency(&mut self.random);
        let user = self.random.below(USERS);
        let agent = agent(&mut self.random);

        let [ts, to_host, to_path, to_method, to_status, to_bytes, to_latency, to_user, to_agent] =
            match self.layout {
                Layout::Jsonl => JSON_TEXT,
                Layout::Csv => CSV_TEXT,
            };
        out.extend_from_slice(ts);
        self.append_time(out);
        out.extend_from_slice(to_host);
        out.extend_from_slice(b"web-");
        append_padded(out, host, 3);
        out.extend_from_slice(to_path);
        out.extend_from_slice(self.paths[path].as_bytes());
        out.extend_from_slice(to_method);
        out.extend_from_slice(method.as_bytes());
        out.extend_from_slice(to_status);
        append_number(out, u64::from(status));
        out.extend_from_slice(to_bytes);
        append_number(out, bytes);
        out.extend_from_slice(to_latency);
        append_number(out, latency_us / 1_000);
        out.push(b'.');
        append_padded(out, latency_us % 1_000, 3);
        out.extend_from_slice(to_user);
        out.extend_from_slice(b"user-");
        append_padded(out, user, 5);
        out.extend_from_slice(to_agent);
        match self.layout {
            Layout::Jsonl => {
                append_doubling_quotes(out, agent, b'\\');
                out.extend_from_slice(b"\"}\n");
            }
            Layout::Csv if agent.contains([',', '"']) => {
                out.push(b'"');
                append_doubling_quotes(out, agent, b'"');
                out.extend_from_slice(b"\"\n");
            }
            Layout::Csv => {
                out.extend_from_slice(agent.as_bytes());
                out.push(b'\n');
            }
        }
    }

    fn append_time(&mut self, out: &mut Vec<u8>) {
        let seconds = self.unix_ms / 1_000;
        if self.second.0 != seconds {
            let Civil { year, month, day, hour, minute, second } = Civil::from_unix(seconds);
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.");
            self.second = (seconds, text.into_bytes());
        }
        out.extend_from_slice(&self.second.1);
        append_padded(out, self.unix_ms % 1_000, 3);
        out.push(b'Z');
    }
}

/// The text before each value.
const JSON_TEXT: [&[u8]; 9] = [
    b"{\"ts\":\"",
    b"\",\"host\":\"",
    b"\",\"path\":\"",
    b"\",\"method\":\"",
    b"\",\"status\":",
    b",\"bytes\":",
    b",\"latency_ms\":",
    b",\"user\":\"",
    b"\",\"ua\":\"",
];
const CSV_TEXT: [&[u8]; 9] = [b"", b",", b",", b",", b",", b",", b",", b",", b","];

/// 90 % fine, 8 % the client's error, 2 % the server's; 13 different values.
fn status(random: &mut Random) -> u16 {
    match random.below(100) {
        0..90 => *random.pick(&GOOD),
        90..98 => *random.pick(&CLIENT_ERRORS),
        _ => *random.pick(&SERVER_ERRORS),
    }
}

/// From 100 bytes to about 1 MiB, each power of two equally likely.
fn size(random: &mut Random) -> u64 {
    let width = 8 + random.below(13);
    100 + random.below(1 << width)
}

/// From 0.1 ms to about 4 s, in microseconds.
fn latency(random: &mut Random) -> u64 {
    let width = 9 + random.below(14);
    100 + random.below(1 << width)
}

fn agent(random: &mut Random) -> &'static str {
    match random.below(1_000) {
        0..2 => QUOTED_AGENTS[random.below(QUOTED_AGENTS.len() as u64) as usize],
        _ => AGENTS[random.below(AGENTS.len() as u64) as usize],
    }
}

/// The 5,000 paths, most popular first.
fn paths(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed, VOCABULARY_STREAM);
    (0..PATHS)
        .map(|number| {
            let (section, word) = (*random.pick(&SECTIONS), *random.pick(&WORDS));
            let ending = *random.pick(&ENDINGS);
            format!("/{section}/{word}-{number:04}{ending}")
        })
        .collect()
}

fn append_doubling_quotes(out: &mut Vec<u8>, text: &str, before_quote: u8) {
    for &byte in text.as_bytes() {
        if byte == b'"' {
            out.push(before_quote);
        }
        out.push(byte);
    }
}

fn append_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn append_padded(out: &mut Vec<u8>, number: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10_u64.pow(place) % 10) as u8);
    }
}
