//! Log lines of an ssh daemon: people who log in, and a few addresses that guess passwords.
//!
//! It owns the small stories (an episode of one to fourteen lines) of which such a log consists. All
//! addresses come from the ranges kept for documentation (RFC 5737) and the private range.

use std::collections::VecDeque;
use std::io::Write;

use crate::calendar::Civil;
use crate::random::Random;

/// 2025-12-10T06:55:46Z; the lines themselves carry no year.
const START_UNIX_SECONDS: u64 = 1_765_349_746;
/// Files begin this far apart, for each of their lines.
const SECONDS_A_LINE: u64 = 3;
const OFFENDERS: u64 = 24;
const OFFENDER_STREAM: u64 = u64::MAX - 1;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const PEOPLE: [&str; 12] = [
    "anna", "ben", "carla", "deploy", "erik", "fatima", "git", "hana", "ivan", "jun", "backup",
    "lena",
];
const GUESSED: [&str; 14] = [
    "webmaster",
    "admin",
    "test",
    "oracle",
    "postgres",
    "ubuntu",
    "guest",
    "pi",
    "ftpuser",
    "nagios",
    "mysql",
    "support",
    "user1",
    "hadoop",
];

/// The lines of one file, one after the other, without an end.
pub(super) struct AuthLines {
    random: Random,
    unix_seconds: u64,
    process: u64,
    offenders: Vec<String>,
    waiting: VecDeque<Vec<u8>>,
}

impl AuthLines {
    pub(super) fn new(seed: u64, index: u64, records: u64) -> Self {
        Self {
            random: Random::new(seed, index),
            unix_seconds: START_UNIX_SECONDS + index * records * SECONDS_A_LINE,
            process: 24_200,
            offenders: offenders(seed),
            waiting: VecDeque::new(),
        }
    }

    /// Appends the next line with its newline.
    pub(super) fn append(&mut self, out: &mut Vec<u8>) {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                out.extend_from_slice(&line);
                return;
            }
            self.episode();
        }
    }

    /// Tells one story, which is always at least one line.
    fn episode(&mut self) {
        self.process = 1_000 + (self.process - 1_000 + 1 + self.random.below(40)) % 64_000;
        self.unix_seconds += self.random.below(12);
        match self.random.below(100) {
            0..55 => self.login(),
            55..65 => self.mistyped_login(),
            65..82 => self.unknown_user(),
            82..94 => self.guessing(),
            _ => self.scan(),
        }
    }

    fn login(&mut self) {
        let (user, port) = (*self.random.pick(&PEOPLE), self.port());
        let address = self.friend();
        let how = *self.random.pick(&["password", "publickey"]);
        self.say(&format!("Accepted {how} for {user} from {address} port {port} ssh2"));
        self.say(&format!("pam_unix(sshd:session): session opened for user {user} by (uid=0)"));
        self.unix_seconds += self.random.below(9);
        self.say(&format!("Received disconnect from {address}: 11: disconnected by user"));
        self.say(&format!("pam_unix(sshd:session): session closed for user {user}"));
    }

    fn mistyped_login(&mut self) {
        let (user, port) = (*self.random.pick(&PEOPLE), self.port());
        let address = self.friend();
        for _ in 0..=self.random.below(2) {
            self.say(&format!("Failed password for {user} from {address} port {port} ssh2"));
            self.unix_seconds += 2 + self.random.below(5);
        }
        self.say(&format!("Accepted password for {user} from {address} port {port} ssh2"));
        self.say(&format!("pam_unix(sshd:session): session opened for user {user} by (uid=0)"));
    }

    fn unknown_user(&mut self) {
        let (user, port) = (*self.random.pick(&GUESSED), self.port());
        let address = self.offender();
        self.say(&format!("Invalid user {user} from {address}"));
        self.say(&format!("input_userauth_request: invalid user {user} [preauth]"));
        self.say("pam_unix(sshd:auth): check pass; user unknown");
        self.say(&format!(
            "Failed password for invalid user {user} from {address} port {port} ssh2"
        ));
        self.say(&format!("Received disconnect from {address}: 11: Bye Bye [preauth]"));
    }

    fn guessing(&mut self) {
        let address = self.offender();
        for _ in 0..3 + self.random.below(10) {
            let port = self.port();
            self.say(&format!("Failed password for root from {address} port {port} ssh2"));
            self.unix_seconds += self.random.below(3);
        }
        self.say(&format!("Connection closed by {address} [preauth]"));
    }

    fn scan(&mut self) {
        let address = self.offender();
        self.say(&format!("Did not receive identification string from {address}"));
    }

    fn say(&mut self, message: &str) {
        let Civil { month, day, hour, minute, second, .. } = Civil::from_unix(self.unix_seconds);
        let month = MONTHS[(month - 1) as usize];
        let process = self.process;
        let mut line = Vec::with_capacity(128);
        // Writing into a vector cannot fail, so there is no error to pass on.
        let _ = writeln!(
            line,
            "{month} {day:2} {hour:02}:{minute:02}:{second:02} LabSZ sshd[{process}]: {message}"
        );
        self.waiting.push_back(line);
    }

    fn friend(&mut self) -> String {
        format!(
            "10.{}.{}.{}",
            self.random.below(4),
            self.random.below(8),
            1 + self.random.below(250)
        )
    }

    /// A quarter of the offenders do most of the harm.
    fn offender(&mut self) -> String {
        let busy = self.offenders.len() / 4;
        let upto = if self.random.below(10) < 7 { busy } else { self.offenders.len() };
        self.random.pick(&self.offenders[..upto.max(1)]).clone()
    }

    fn port(&mut self) -> u64 {
        32_768 + self.random.below(28_000)
    }
}

/// The offending addresses: the same in all files of a seed.
fn offenders(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed, OFFENDER_STREAM);
    (0..OFFENDERS)
        .map(|number| {
            let network = *random.pick(&["203.0.113", "198.51.100", "192.0.2"]);
            format!("{network}.{}", 2 + number * 10 + random.below(10))
        })
        .collect()
}
