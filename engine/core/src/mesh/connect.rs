//! Connect: bring all connections of one process up before a deadline, whoever else knocks.
//!
//! Process i dials every j < i, process 0 first because it knows the generation, and accepts every
//! j > i. Each connection that comes in has a thread and a few seconds of its own; strangers hold up
//! nobody. Owns the list of who is here. Returns all connections or none.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::communication::allocator::zero_copy::stream::Stream;

use super::control::Control;
use super::endpoint::{Endpoint, PROCESSES_MAX, check_address};
use super::error::{MeshError, MissingPeer};
use super::handshake::{Failure, Hello, Identity, Role};
use super::socket::{Listener, Socket, Timed, left_until};
use super::{Mesh, MeshConfig, TOKEN_BYTES_MIN};

/// How long one connection may take to prove itself.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How many connections may be proving themselves at once; one more drops the oldest.
const PENDING_MAX: usize = 64;
/// How many refusals an error repeats.
const REFUSALS_MAX: usize = 8;
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// How often the listener is asked while the mesh comes up.
const ACCEPT_EVERY: Duration = Duration::from_millis(1);
/// How long after the deadline a dial may still report what it met.
const LAST_WORDS: Duration = Duration::from_millis(100);
const VERSION_BYTES_MAX: usize = 64;

/// Connects this process to all others, or says who is missing or what differs. Blocks until then,
/// `config.deadline` at most.
pub fn connect(config: &MeshConfig) -> Result<Mesh, MeshError> {
    check(config)?;
    let mut start = Start::new(config)?;
    let outcome = start.run();
    start.stop.store(true, Ordering::Relaxed); // threads that still dial end themselves
    outcome
}

fn check(config: &MeshConfig) -> Result<(), MeshError> {
    let count = config.endpoints.len();
    let problem = |reason: String| Err(MeshError::Config { reason });
    if config.index >= count {
        return problem(format!("index {} of {count} processes: they count from 0", config.index));
    }
    if count > PROCESSES_MAX {
        return problem(format!("{count} processes, {PROCESSES_MAX} are allowed"));
    }
    if config.workers == 0 || config.workers > u16::MAX as usize {
        return problem(format!("{} workers in each process", config.workers));
    }
    if config.token.len() < TOKEN_BYTES_MIN && count > 1 {
        let bytes = config.token.len();
        return problem(format!("a token of {bytes} bytes, at least {TOKEN_BYTES_MIN} are needed"));
    }
    if config.binary_version.len() > VERSION_BYTES_MAX {
        return problem(format!("a version of more than {VERSION_BYTES_MAX} bytes"));
    }
    if config.index == 0 && config.generation.is_none() {
        return problem("process 0 has to announce a generation".to_string());
    }
    let mixed = config.endpoints.windows(2).any(|pair| {
        matches!(
            pair,
            [Endpoint::Tcp(_), Endpoint::Unix(_)] | [Endpoint::Unix(_), Endpoint::Tcp(_)]
        )
    });
    if mixed {
        return problem("some endpoints are Unix sockets and some are not".to_string());
    }
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        if let Some(first) = config.endpoints[..index].iter().position(|other| other == endpoint) {
            return problem(format!("processes {first} and {index} both listen at {endpoint}"));
        }
        if let Endpoint::Tcp(address) = endpoint
            && let Err(reason) = check_address(address)
        {
            return problem(format!("endpoint {address:?}: {reason}"));
        }
    }
    Ok(())
}

/// What the threads of a start tell it.
enum Event {
    /// A connection that we dialled is proven.
    Dialled(usize, Role, Socket),
    /// A connection came in and is proven or refused.
    Accepted(u64, Result<Place, Failure>, String),
    /// Dialling found out that the start cannot succeed, or ran out of time.
    Hopeless(MeshError),
    /// Dialling a process ran out of time.
    Unreached(MissingPeer),
}

/// One connection of a mesh: who is at its other end and what it is for.
type Place = (usize, Role);

/// Who came in. Filled by the handshake threads at the moment both sides agree; it counts once the
/// thread has said so to the other side and reports it.
type Arrivals = Mutex<HashMap<Place, Arrival>>;

struct Arrival {
    /// The connection's number at the door.
    number: u64,
    instance: [u8; 16],
    socket: Socket,
}

/// Cuts a connection off while it is proving itself; empty once it has its place, or was cut off.
type Leash = Arc<Mutex<Option<Socket>>>;

fn cut(leash: &Leash) {
    if let Some(socket) = lock(leash).take() {
        let _ = socket.shutdown(std::net::Shutdown::Both); // its thread ends by itself
    }
}

struct Start<'a> {
    config: &'a MeshConfig,
    identity: Identity,
    began: Instant,
    until: Instant,
    stop: Arc<AtomicBool>,
}

impl<'a> Start<'a> {
    fn new(config: &'a MeshConfig) -> Result<Start<'a>, MeshError> {
        let began = Instant::now();
        Ok(Start {
            config,
            identity: Identity::new(config)?,
            began,
            until: began + config.deadline,
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    fn run(&mut self) -> Result<Mesh, MeshError> {
        let (index, count) = (self.config.index, self.config.endpoints.len());
        let listener = if index + 1 < count { Some(self.listen()?) } else { None };
        let mut here: HashMap<Place, Socket> = HashMap::new();
        if index > 0 {
            self.join_process_zero(&mut here)?;
        }
        let Some(generation) = self.identity.generation() else {
            return Err(MeshError::Config { reason: "no generation was announced".to_string() });
        };
        self.gather(listener, &mut here)?;
        let mut control = Vec::new();
        let mut sockets: Vec<Option<Socket>> = (0..count).map(|_| None).collect();
        for ((peer, role), socket) in here {
            socket
                .set_timeouts(None, None)
                .map_err(|source| MeshError::System { action: "clear a time-out", source })?;
            match role {
                Role::Data => sockets[peer] = Some(socket),
                Role::Control => control.push((peer, socket)),
            }
        }
        control.sort_by_key(|(peer, _)| *peer);
        let control = Control::start(control, self.config.heartbeat)?;
        Ok(Mesh { generation, sockets, control, index, workers: self.config.workers })
    }

    /// Listens at our own endpoint. A process of the start before may still hold it for a moment.
    fn listen(&self) -> Result<Listener, MeshError> {
        let index = self.config.index;
        let endpoint = &self.config.endpoints[index];
        let mut pause = RETRY_MIN;
        loop {
            match Listener::bind(endpoint) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && Instant::now() + pause < self.until =>
                {
                    pause = wait_longer(pause);
                }
                Err(source) => {
                    return Err(MeshError::Bind { index, endpoint: endpoint.clone(), source });
                }
                Ok(listener) => return Ok(listener),
            }
        }
    }

    /// Learns the generation and opens the control connection.
    fn join_process_zero(&mut self, here: &mut HashMap<Place, Socket>) -> Result<(), MeshError> {
        for role in [Role::Data, Role::Control] {
            let endpoint = &self.config.endpoints[0];
            let (socket, hello) = dial(&self.identity, role, 0, endpoint, self.until, &self.stop)
                .map_err(|gave_up| match gave_up {
                GaveUp::Hopeless(error) => error,
                GaveUp::Late(peer) => self.missing(vec![peer], Vec::new()),
            })?;
            if let Some(generation) = hello.generation {
                self.identity.adopt(generation);
            }
            here.insert((0, role), socket);
        }
        Ok(())
    }

    fn missing(&self, peers: Vec<MissingPeer>, refused: Vec<String>) -> MeshError {
        let waited = Duration::from_millis(self.began.elapsed().as_millis() as u64);
        MeshError::Missing { peers, waited, refused }
    }

    /// Dials everyone between process 0 and us, and accepts everyone after us.
    fn gather(
        &self,
        listener: Option<Listener>,
        here: &mut HashMap<Place, Socket>,
    ) -> Result<(), MeshError> {
        let (index, count) = (self.config.index, self.config.endpoints.len());
        let arrivals = Arc::new(Arrivals::default());
        let identity = Arc::new(self.identity.clone());
        let (events, incoming) = channel();
        for peer in 1..index {
            self.dial_aside(peer, &identity, &events)?;
        }
        let wanted_dials = here.len() + index.saturating_sub(1);
        let wanted_arrivals = (count - index - 1) * if index == 0 { 2 } else { 1 };
        let mut door = Door { listener, pending: VecDeque::new(), next: 0 };
        let mut confirmed: HashSet<Place> = HashSet::new();
        let (mut refused, mut unreached) = (Vec::new(), Vec::new());
        let outcome =
            loop {
                if here.len() == wanted_dials && confirmed.len() == wanted_arrivals {
                    break Ok(());
                }
                if self.is_late(here.len() + unreached.len() == wanted_dials) {
                    unreached.extend(self.not_arrived(|place| {
                        here.contains_key(&place) || confirmed.contains(&place)
                    }));
                    unreached.sort_by_key(|peer: &MissingPeer| peer.index);
                    unreached.dedup_by_key(|peer| peer.index); // the first one knows more
                    break Err(self.missing(unreached, refused));
                }
                if confirmed.len() == wanted_arrivals {
                    door.close();
                }
                door.open(&identity, &arrivals, &events);
                match next_event(&incoming) {
                    None => {}
                    Some(Event::Dialled(peer, role, socket)) => {
                        here.insert((peer, role), socket);
                    }
                    Some(Event::Hopeless(error)) => break Err(error),
                    Some(Event::Unreached(peer)) => unreached.push(peer),
                    Some(Event::Accepted(number, result, from)) => {
                        door.pending.retain(|(pending, _)| *pending != number);
                        match result {
                            Ok(place) => {
                                let newest = lock(&arrivals).get(&place).map(|came| came.number);
                                if newest == Some(number) {
                                    confirmed.insert(place);
                                }
                            }
                            Err(Failure::Noise(text)) => {
                                tracing::debug!(%from, reason = %text, "a stranger knocked");
                            }
                            Err(Failure::Passing(text)) => {
                                tracing::warn!(%from, reason = %text, "a connection is refused");
                                if refused.len() < REFUSALS_MAX {
                                    refused.push(format!("{from}: {text}"));
                                }
                            }
                            Err(Failure::Final(error)) => break Err(error),
                        }
                    }
                }
            };
        door.close();
        outcome?;
        let arrived = std::mem::take(&mut *lock(&arrivals));
        here.extend(arrived.into_iter().map(|(place, arrival)| (place, arrival.socket)));
        Ok(())
    }

    /// Dials one process on a thread of its own.
    fn dial_aside(
        &self,
        peer: usize,
        identity: &Arc<Identity>,
        events: &Sender<Event>,
    ) -> Result<(), MeshError> {
        let (identity, events, stop) =
            (Arc::clone(identity), events.clone(), Arc::clone(&self.stop));
        let (endpoint, until) = (self.config.endpoints[peer].clone(), self.until);
        std::thread::Builder::new()
            .name(format!("dial-{peer}"))
            .spawn(move || {
                let event = match dial(&identity, Role::Data, peer, &endpoint, until, &stop) {
                    Ok((socket, _)) => Event::Dialled(peer, Role::Data, socket),
                    Err(GaveUp::Hopeless(error)) => Event::Hopeless(error),
                    Err(GaveUp::Late(peer)) => Event::Unreached(peer),
                };
                let _ = events.send(event); // the start is over: nobody to tell
            })
            .map(|_| ())
            .map_err(|source| MeshError::System { action: "start a thread", source })
    }

    /// Says whether time is over; dials that have not reported yet get a moment more, for what they met.
    fn is_late(&self, all_dials_reported: bool) -> bool {
        let late_by = Instant::now().checked_duration_since(self.until);
        late_by.is_some_and(|late_by| all_dials_reported || late_by > LAST_WORDS)
    }

    /// Names the processes that miss a connection.
    fn not_arrived(&self, came: impl Fn(Place) -> bool) -> Vec<MissingPeer> {
        let index = self.config.index;
        let absent = |peer: &usize| {
            let whole = came((*peer, Role::Data)) && (index > 0 || came((*peer, Role::Control)));
            *peer != index && !whole
        };
        let endpoints = &self.config.endpoints;
        let missing = |peer: usize| MissingPeer {
            index: peer,
            endpoint: endpoints[peer].clone(),
            detail: String::new(),
        };
        (0..endpoints.len()).filter(absent).map(missing).collect()
    }
}

/// The listener and the connections that are proving themselves.
struct Door {
    listener: Option<Listener>,
    /// Oldest first.
    pending: VecDeque<(u64, Leash)>,
    next: u64,
}

impl Door {
    /// Lets in whoever waits, each to a thread of its own.
    fn open(&mut self, identity: &Arc<Identity>, arrivals: &Arc<Arrivals>, events: &Sender<Event>) {
        let Some(listener) = &self.listener else { return };
        for _ in 0..PENDING_MAX {
            let socket = match listener.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => {
                    // The peer is gone, is another user, or we are out of descriptors for a moment.
                    tracing::debug!(%error, "a connection could not be accepted");
                    return;
                }
            };
            let Ok(handle) = socket.try_clone() else { continue };
            if self.pending.len() >= PENDING_MAX
                && let Some((_, oldest)) = self.pending.pop_front()
            {
                cut(&oldest);
            }
            let number = self.next;
            self.next += 1;
            let leash: Leash = Arc::new(Mutex::new(Some(handle)));
            let guest = Guest {
                number,
                leash: Arc::clone(&leash),
                identity: Arc::clone(identity),
                arrivals: Arc::clone(arrivals),
            };
            let events = events.clone();
            let spawned =
                std::thread::Builder::new().name("handshake".to_string()).spawn(move || {
                    let from = socket.peer_text();
                    let result = guest.prove(socket);
                    let _ = events.send(Event::Accepted(number, result, from)); // the start is over
                });
            match spawned {
                Ok(_) => self.pending.push_back((number, leash)),
                Err(error) => tracing::debug!(%error, "no thread for a connection"),
            }
        }
    }

    /// Closes the listener and cuts off whoever is still proving itself.
    fn close(&mut self) {
        self.listener = None;
        for (_, leash) in self.pending.drain(..) {
            cut(&leash);
        }
    }
}

/// One connection that came in, on its own thread.
struct Guest {
    number: u64,
    leash: Leash,
    identity: Arc<Identity>,
    arrivals: Arc<Arrivals>,
}

impl Guest {
    fn prove(self, socket: Socket) -> Result<Place, Failure> {
        let kept = socket.try_clone()?;
        let timed = Timed::new(&socket, Instant::now() + HANDSHAKE_MAX);
        let hello = self.identity.accept(timed, |hello| self.take(hello, kept))?;
        Ok((hello.index as usize, hello.role))
    }

    fn take(&self, hello: &Hello, socket: Socket) -> Result<(), String> {
        let place = (hello.index as usize, hello.role);
        let mut arrivals = lock(&self.arrivals);
        // The same start of the same process comes again when it saw its first try fail.
        if arrivals.get(&place).is_some_and(|earlier| earlier.instance != hello.instance) {
            return Err(format!(
                "process {} is connected already: start each process with an index of its own",
                hello.index
            ));
        }
        if lock(&self.leash).take().is_none() {
            return Err("too many connections at once".to_string()); // cut off: nobody hears it
        }
        let (number, instance) = (self.number, hello.instance);
        arrivals.insert(place, Arrival { number, instance, socket });
        Ok(())
    }
}

enum GaveUp {
    Hopeless(MeshError),
    Late(MissingPeer),
}

/// Dials one process until it is proven, something makes the start hopeless, or time is over.
fn dial(
    identity: &Identity,
    role: Role,
    peer: usize,
    endpoint: &Endpoint,
    until: Instant,
    stop: &AtomicBool,
) -> Result<(Socket, Hello), GaveUp> {
    let mut pause = RETRY_MIN;
    let (mut detail, mut proven) = ("not reached in time".to_string(), false);
    while let Some(left) = left_until(until) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let timeout = left.min(HANDSHAKE_MAX);
        let attempt = Socket::dial(endpoint, timeout).map_err(Failure::from).and_then(|socket| {
            let timed = Timed::new(&socket, Instant::now() + timeout);
            let hello = identity.dial(timed, role, peer, endpoint)?;
            Ok((socket, hello))
        });
        match attempt {
            Ok(connected) => return Ok(connected),
            Err(Failure::Final(error)) => return Err(GaveUp::Hopeless(error)),
            Err(Failure::Passing(text)) => (detail, proven) = (text, true),
            // What a proven process said explains more than the silence after it.
            Err(Failure::Noise(text)) if !proven => detail = text,
            Err(Failure::Noise(_)) => {}
        }
        pause = wait_longer(pause.min(until.saturating_duration_since(Instant::now())));
    }
    Err(GaveUp::Late(MissingPeer { index: peer, endpoint: endpoint.clone(), detail }))
}

/// Waits, and returns how long to wait the next time.
fn wait_longer(pause: Duration) -> Duration {
    std::thread::sleep(pause);
    (pause * 2).clamp(RETRY_MIN, RETRY_MAX)
}

fn next_event(incoming: &Receiver<Event>) -> Option<Event> {
    incoming.recv_timeout(ACCEPT_EVERY).ok() // we hold a sender: no event means none yet
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
