//! Handshake: both sides of a fresh connection prove the shared token and compare what they run.
//!
//! ```text
//! dialer -> acceptor   magic, version, nonce            acceptor -> dialer   magic, version, nonce
//! dialer -> acceptor   hello, proof                     acceptor -> dialer   hello, objection, proof
//! dialer -> acceptor   objection, proof                 acceptor -> dialer   objection, proof
//! ```
//! A proof is the keyed BLAKE3 of everything said so far in both directions and of who says it, so it
//! holds for one message of one connection. Nothing unproven is parsed beyond its length, and nothing
//! unproven can end the start of an acceptor. Owns no sockets and no list of peers.

use std::io::{self, Read, Write};

use super::MeshConfig;
use super::endpoint::Endpoint;
use super::error::MeshError;

const MAGIC: &[u8; 8] = b"tidemill";
/// Raised with each change of what is sent here.
pub(super) const PROTOCOL: u16 = 2;
const PREAMBLE_BYTES: usize = 8 + 2 + 32;
const BODY_BYTES_MAX: usize = 1024;
/// In the place of a length: "your proof is wrong", the one thing said without a proof.
const DENIED: u16 = u16::MAX;
const TEXT_BYTES_MAX: usize = 256;
const KEY_CONTEXT: &str = "tidemill mesh 1 handshake";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// Timely's exchange.
    Data,
    /// Small messages to and from process 0.
    Control,
}

/// What a process says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) role: Role,
    pub(super) generation: Option<u64>,
    pub(super) index: u32,
    pub(super) count: u32,
    pub(super) workers: u32,
    pub(super) plan_hash: [u8; 32],
    /// Different for each start of each process: tells a second try from a second process.
    pub(super) instance: [u8; 16],
    pub(super) binary_version: String,
}

/// What this process says, and the key it proves itself with.
#[derive(Clone)]
pub(super) struct Identity {
    key: [u8; 32],
    hello: Hello,
}

/// Why a connection came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody we know: garbage, silence, a closed connection. Worth no more than a debug line.
    Noise(String),
    /// Somebody who should be told about, but another connection may still succeed.
    Passing(String),
    /// This start cannot succeed.
    Final(MeshError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Noise(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_string(),
            io::ErrorKind::UnexpectedEof => "the connection was closed".to_string(),
            _ => error.to_string(),
        })
    }
}

impl Identity {
    pub(super) fn new(config: &MeshConfig) -> Result<Identity, MeshError> {
        let hello = Hello {
            role: Role::Data,
            generation: config.generation,
            index: config.index as u32,
            count: config.endpoints.len() as u32,
            workers: config.workers as u32,
            plan_hash: config.plan_hash,
            instance: random()?,
            binary_version: config.binary_version.clone(),
        };
        Ok(Identity { key: blake3::derive_key(KEY_CONTEXT, &config.token), hello })
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.hello.generation
    }

    /// Takes over the generation that process 0 announced.
    pub(super) fn adopt(&mut self, generation: u64) {
        self.hello.generation = Some(generation);
    }

    /// Speaks first. Returns what the other side says it is.
    pub(super) fn dial(
        &self,
        stream: impl Read + Write,
        role: Role,
        expected: usize,
        endpoint: &Endpoint,
    ) -> Result<Hello, Failure> {
        let mut talk = Talk::new(&self.key, stream);
        talk.send_preamble()?;
        let found = talk.receive_preamble()?;
        if found != PROTOCOL {
            let endpoint = endpoint.clone();
            let ours = PROTOCOL;
            return Err(Failure::Final(MeshError::Protocol {
                index: expected,
                endpoint,
                found,
                ours,
            }));
        }
        talk.send("dialer hello", &Hello { role, ..self.hello.clone() }.encode())?;
        let denied =
            || Failure::Final(MeshError::Token { index: expected, endpoint: endpoint.clone() });
        let Some(answer) = talk.receive("acceptor hello")? else { return Err(denied()) };
        let Some((theirs, objection)) = Hello::decode(&answer) else {
            return Err(Failure::Noise("its answer cannot be read".to_string()));
        };
        let verdict =
            self.judge_acceptor(&theirs, expected, endpoint).and_then(|()| {
                match objection.as_str() {
                    "" => Ok(()),
                    _ => Err(refused(expected, endpoint, objection)),
                }
            });
        let told = talk.send("dialer verdict", objection_of(&verdict).as_bytes());
        verdict?; // the reason counts more than a connection that they have closed meanwhile
        told?;
        let Some(last) = talk.receive("acceptor verdict")? else { return Err(denied()) };
        match text(&last).as_str() {
            "" => Ok(theirs),
            words => Err(refused(expected, endpoint, words.to_string())),
        }
    }

    /// Speaks second. `take` gives the connection its place once both sides agree, or says why not.
    pub(super) fn accept(
        &self,
        stream: impl Read + Write,
        take: impl FnOnce(&Hello) -> Result<(), String>,
    ) -> Result<Hello, Failure> {
        let mut talk = Talk::new(&self.key, stream);
        let found = talk.receive_preamble()?;
        talk.send_preamble()?;
        if found != PROTOCOL {
            let text =
                format!("it speaks version {found} of the mesh, we speak version {PROTOCOL}");
            return Err(Failure::Passing(text));
        }
        let Some(body) = talk.receive("dialer hello")? else {
            talk.deny()?;
            return Err(Failure::Passing("it has another token".to_string()));
        };
        let Some((theirs, _)) = Hello::decode(&body) else {
            return Err(Failure::Passing("its hello cannot be read".to_string()));
        };
        let verdict = self.judge_dialer(&theirs);
        let mut answer = Hello { role: theirs.role, ..self.hello.clone() }.encode();
        answer.extend_from_slice(objection_of(&verdict).as_bytes());
        talk.send("acceptor hello", &answer)?;
        verdict?;
        let Some(objection) = talk.receive("dialer verdict")? else {
            return Err(Failure::Passing("its second proof is wrong".to_string()));
        };
        if !objection.is_empty() {
            let words = text(&objection);
            return Err(Failure::Passing(format!("process {} refuses us: {words}", theirs.index)));
        }
        let taken = take(&theirs).map_err(Failure::Passing);
        talk.send("acceptor verdict", objection_of(&taken).as_bytes())?;
        taken.map(|()| theirs)
    }

    fn judge_acceptor(
        &self,
        theirs: &Hello,
        expected: usize,
        endpoint: &Endpoint,
    ) -> Result<(), Failure> {
        let found = theirs.index as usize;
        if found != expected {
            let endpoint = endpoint.clone();
            return Err(Failure::Final(MeshError::WrongPlace { expected, found, endpoint }));
        }
        match (self.hello.generation, theirs.generation) {
            (_, None) => {
                return Err(Failure::Passing("it does not know the generation yet".to_string()));
            }
            (Some(ours), Some(other)) if ours < other => {
                return Err(self.stale(theirs, other, ours));
            }
            (Some(ours), Some(other)) if ours > other => {
                return Err(Failure::Passing(format!(
                    "process {found} is of the older generation {other}, this start is generation {ours}"
                )));
            }
            _ => {}
        }
        self.compare(theirs)
    }

    fn judge_dialer(&self, theirs: &Hello) -> Result<(), Failure> {
        match (self.hello.generation, theirs.generation) {
            (Some(ours), Some(other)) if ours < other => {
                return Err(self.stale(theirs, other, ours));
            }
            (Some(ours), Some(other)) if ours > other => {
                return Err(Failure::Passing(format!(
                    "process {} is of the older generation {other}, this start is generation {ours}",
                    theirs.index
                )));
            }
            _ => {}
        }
        self.compare(theirs)?;
        let (index, ours) = (theirs.index, self.hello.index);
        if index == ours {
            return Err(Failure::Passing(format!(
                "process {ours} is here already: start each process with an index of its own"
            )));
        }
        if index < ours || index >= self.hello.count {
            let text = format!("process {index} has no reason to dial process {ours}");
            return Err(Failure::Passing(text));
        }
        if ours != 0 && theirs.generation.is_none() {
            let text = format!("process {index} has to ask process 0 for the generation first");
            return Err(Failure::Passing(text));
        }
        if theirs.role == Role::Control && ours != 0 {
            return Err(Failure::Passing("control connections go to process 0".to_string()));
        }
        Ok(())
    }

    fn stale(&self, theirs: &Hello, their_generation: u64, our_generation: u64) -> Failure {
        Failure::Final(MeshError::Stale {
            theirs: theirs.index as usize,
            their_generation,
            ours: self.hello.index as usize,
            our_generation,
        })
    }

    /// Compares what must be the same in all processes, the likeliest cause first.
    fn compare(&self, theirs: &Hello) -> Result<(), Failure> {
        let ours = &self.hello;
        let values = |hello: &Hello| {
            [
                format!("is version {:?}", hello.binary_version),
                format!("runs plan {}", short_hex(&hello.plan_hash)),
                format!("counts {} processes", hello.count),
                format!("runs {} workers", hello.workers),
            ]
        };
        let same = [
            theirs.binary_version == ours.binary_version,
            theirs.plan_hash == ours.plan_hash,
            theirs.count == ours.count,
            theirs.workers == ours.workers,
        ];
        let hints = [
            "start all processes from the same binary",
            "start all processes with the same pipeline file",
            "start all processes with the same -n and host file",
            "start all processes with the same -w",
        ];
        let Some(place) = same.iter().position(|same| !same) else { return Ok(()) };
        let [their_value, our_value] = [values(theirs), values(ours)]
            .map(|values| values.into_iter().nth(place).expect("one value for each comparison"));
        Err(Failure::Final(MeshError::Differs {
            theirs: theirs.index as usize,
            their_value,
            ours: ours.index as usize,
            our_value,
            hint: hints[place],
        }))
    }
}

fn refused(index: usize, endpoint: &Endpoint, reason: String) -> Failure {
    Failure::Final(MeshError::Refused { index, endpoint: endpoint.clone(), reason })
}

/// What the other side is told: nothing when all is well.
fn objection_of(verdict: &Result<(), Failure>) -> String {
    let mut words = match verdict {
        Ok(()) => return String::new(),
        Err(Failure::Noise(words) | Failure::Passing(words)) => words.clone(),
        Err(Failure::Final(error)) => error.to_string(),
    };
    words.truncate(words.floor_char_boundary(TEXT_BYTES_MAX));
    words
}

/// Text of a peer, fit for a message of ours.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect()
}

fn short_hex(hash: &[u8; 32]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(match self.role {
            Role::Data => 0,
            Role::Control => 1,
        });
        bytes.push(u8::from(self.generation.is_some()));
        bytes.extend_from_slice(&self.generation.unwrap_or_default().to_be_bytes());
        for number in [self.index, self.count, self.workers] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.plan_hash);
        bytes.extend_from_slice(&self.instance);
        let version = &self.binary_version.as_bytes();
        let version = &version[..version.len().min(u8::MAX as usize)];
        bytes.push(version.len() as u8);
        bytes.extend_from_slice(version);
        bytes
    }

    /// Reads a hello and the text after it.
    fn decode(mut bytes: &[u8]) -> Option<(Hello, String)> {
        let rest = &mut bytes;
        let role = match take::<1>(rest)? {
            [0] => Role::Data,
            [1] => Role::Control,
            _ => return None,
        };
        let known = match take::<1>(rest)? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let generation = u64::from_be_bytes(take(rest)?);
        let hello = Hello {
            role,
            generation: known.then_some(generation),
            index: u32::from_be_bytes(take(rest)?),
            count: u32::from_be_bytes(take(rest)?),
            workers: u32::from_be_bytes(take(rest)?),
            plan_hash: take(rest)?,
            instance: take(rest)?,
            binary_version: {
                let [bytes] = take::<1>(rest)?;
                let (version, after) = rest.split_at_checked(bytes as usize)?;
                *rest = after;
                text(version)
            },
        };
        Some((hello, text(rest)))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// One conversation: what was said so far decides every proof.
struct Talk<S> {
    stream: S,
    said: blake3::Hasher,
}

impl<S: Read + Write> Talk<S> {
    fn new(key: &[u8; 32], stream: S) -> Talk<S> {
        Talk { stream, said: blake3::Hasher::new_keyed(key) }
    }

    fn send_preamble(&mut self) -> Result<(), Failure> {
        let nonce: [u8; 32] = random().map_err(Failure::Final)?;
        let mut preamble = [0; PREAMBLE_BYTES];
        preamble[..8].copy_from_slice(MAGIC);
        preamble[8..10].copy_from_slice(&PROTOCOL.to_be_bytes());
        preamble[10..].copy_from_slice(&nonce);
        self.stream.write_all(&preamble)?;
        self.said.update(&preamble);
        Ok(())
    }

    /// Returns the version that the other side speaks.
    fn receive_preamble(&mut self) -> Result<u16, Failure> {
        let mut preamble = [0; PREAMBLE_BYTES];
        // The magic alone decides first: a stranger need not send as much as we would.
        self.stream.read_exact(&mut preamble[..8])?;
        if preamble[..8] != MAGIC[..] {
            return Err(Failure::Noise("it is not a tidemill process".to_string()));
        }
        self.stream.read_exact(&mut preamble[8..])?;
        self.said.update(&preamble);
        Ok(u16::from_be_bytes([preamble[8], preamble[9]]))
    }

    fn proof(&self, label: &str) -> blake3::Hash {
        self.said.clone().update(label.as_bytes()).finalize()
    }

    fn send(&mut self, label: &str, body: &[u8]) -> Result<(), Failure> {
        assert!(body.len() <= BODY_BYTES_MAX, "a hello and an objection fit");
        let length = (body.len() as u16).to_be_bytes();
        self.said.update(&length).update(body);
        let message = [&length[..], body, self.proof(label).as_bytes()].concat();
        Ok(self.stream.write_all(&message)?)
    }

    /// Returns the body of a proven message; `None` when its proof is wrong, or ours was for them.
    fn receive(&mut self, label: &str) -> Result<Option<Vec<u8>>, Failure> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length)?;
        let bytes = match u16::from_be_bytes(length) {
            DENIED => return Ok(None),
            bytes if bytes as usize > BODY_BYTES_MAX => {
                return Err(Failure::Noise(format!("it announces a message of {bytes} bytes")));
            }
            bytes => bytes as usize,
        };
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body)?;
        let mut proof = [0; 32];
        self.stream.read_exact(&mut proof)?;
        self.said.update(&length).update(&body);
        // `Hash` compares in constant time.
        Ok((self.proof(label) == blake3::Hash::from_bytes(proof)).then_some(body))
    }

    fn deny(&mut self) -> Result<(), Failure> {
        Ok(self.stream.write_all(&DENIED.to_be_bytes())?)
    }
}

/// Returns bytes from the operating system's source of randomness.
fn random<const N: usize>() -> Result<[u8; N], MeshError> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| MeshError::System { action: "read /dev/urandom", source })?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests;
