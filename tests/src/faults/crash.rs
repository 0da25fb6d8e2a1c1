//! Crash: a disk in memory that knows what it has promised, and what a power cut may leave of it.
//!
//! Owns no real file. A record of calls is played onto it. Bytes that were not synced may be kept,
//! lost, cut off or replaced by zeros; names that were not synced may be kept in any subset in which
//! a file never vanishes by itself: the changes of one file, and those of one name, keep their
//! order, and nothing is in a folder that is not there. That is more than ext4, xfs or btrfs do:
//! they keep all changes of names in one order, which is one of the ways here. `*-shm` is left out:
//! it is SQLite's shared memory, and SQLite makes it anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Dice;
use super::record::{Entry, What};
use crate::tree::Tree;

/// How much of what was not synced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survival {
    /// Nothing: the disk was lazy.
    Nothing,
    /// All: the disk was quick.
    Everything,
    /// All bytes and no names: the disk was busy with files.
    Bytes,
    /// All names and no bytes: the disk was busy with folders.
    Names,
    /// Names up to some moment, and bytes by chance: a file system with one log.
    UpToAMoment,
    /// Whatever the order allows, by chance: the worst file system there may be.
    ByChance,
}

impl Survival {
    /// All of them.
    pub const ALL: [Survival; 6] = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Bytes,
        Survival::Names,
        Survival::UpToAMoment,
        Survival::ByChance,
    ];
}

type NodeId = usize;

/// A name in a folder.
type Place = (NodeId, String);

#[derive(Clone, Debug)]
enum Node {
    Folder { now: BTreeMap<String, NodeId>, kept: BTreeMap<String, NodeId> },
    File(File),
}

#[derive(Clone, Debug, Default)]
struct File {
    now: Vec<u8>,
    kept: Vec<u8>,
    pending: Vec<Change>,
    look: Look,
    /// Its writer wrote it line by line, so a cut leaves whole lines.
    by_lines: bool,
}

/// How a file looks to whoever asks for its inode and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The number of the inode.
    pub inode: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// How files look that are really another file, by the number of their real inode.
pub type Looks = BTreeMap<u64, Look>;

#[derive(Clone, Debug)]
struct Change {
    edit: Edit,
    /// A sync has failed on it: no later sync of the file makes it durable.
    lost: bool,
}

#[derive(Clone, Debug)]
enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

/// A change of names: a node leaves a place, comes to one, or both in one step.
#[derive(Clone, Debug)]
struct Move {
    node: NodeId,
    from: Option<Place>,
    to: Option<Place>,
}

impl Move {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(self.to.iter())
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    by_inode: HashMap<u64, NodeId>,
    pending: Vec<Move>,
}

impl Disk {
    /// Looks at a folder, all of which is durable. Some of its files look otherwise to the process.
    pub fn load(root: &Path, looks: &Looks) -> Disk {
        let root = root.canonicalize().unwrap();
        let mut disk = Disk {
            root: root.clone(),
            nodes: Vec::new(),
            by_inode: HashMap::new(),
            pending: Vec::new(),
        };
        disk.load_folder(&root, looks);
        disk
    }

    fn load_folder(&mut self, path: &Path, looks: &Looks) -> NodeId {
        let id = self.add(Node::Folder { now: BTreeMap::new(), kept: BTreeMap::new() });
        self.by_inode.insert(fs::metadata(path).unwrap().ino(), id);
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let metadata = entry.metadata().unwrap();
            let child = if metadata.is_dir() {
                self.load_folder(&entry.path(), looks)
            } else {
                let now = fs::read(entry.path()).unwrap();
                let real = Look {
                    inode: metadata.ino(),
                    modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
                };
                let look = looks.get(&real.inode).copied().unwrap_or(real);
                let file = File { kept: now.clone(), now, look, ..File::default() };
                let child = self.add(Node::File(file));
                self.by_inode.insert(metadata.ino(), child);
                child
            };
            if let Node::Folder { now, kept } = &mut self.nodes[id] {
                now.insert(name.clone(), child);
                kept.insert(name, child);
            }
        }
        id
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Makes the bytes of a file count as never synced by whoever wrote it, line by line.
    pub fn unsync(&mut self, path: &str) {
        let id = self.find(path).unwrap_or_else(|| panic!("there is no {path}"));
        let Node::File(file) = &mut self.nodes[id] else { panic!("{path} is no file") };
        file.by_lines = true;
        file.kept.clear();
        let mut at = 0;
        for line in file.now.split_inclusive(|byte| *byte == b'\n') {
            let edit = Edit::Write { at, bytes: line.to_vec() };
            file.pending.push(Change { edit, lost: false });
            at += line.len();
        }
    }

    /// Plays a call.
    pub fn play(&mut self, entry: &Entry) {
        if entry.path.ends_with("-shm") || !entry.what.changes() {
            return;
        }
        match &entry.what {
            What::Create => {
                let look = Look { inode: entry.inode, modified_ns: entry.modified_ns };
                self.create(entry, Node::File(File { look, ..File::default() }));
            }
            What::MakeFolder => {
                let folder = Node::Folder { now: BTreeMap::new(), kept: BTreeMap::new() };
                self.create(entry, folder);
            }
            What::Write { at, bytes } => {
                self.edit(entry, Edit::Write { at: *at, bytes: bytes.clone() });
            }
            What::Resize(size) => self.edit(entry, Edit::Resize(*size)),
            What::Rename(target) => {
                let (from, to) = (self.place(&entry.path), self.place(target));
                let Some(node) = self.take(&from) else { panic!("no {} to move", entry.path) };
                self.put(&to, node);
                self.pending.push(Move { node, from: Some(from), to: Some(to) });
            }
            What::Link(target) => {
                let to = self.place(target);
                let node = self.by_inode[&entry.inode];
                self.put(&to, node);
                self.pending.push(Move { node, from: None, to: Some(to) });
            }
            What::Unlink => {
                let from = self.place(&entry.path);
                let Some(node) = self.take(&from) else { panic!("no {} to remove", entry.path) };
                self.pending.push(Move { node, from: Some(from), to: None });
            }
            What::Sync => {
                let Some(&id) = self.by_inode.get(&entry.inode) else { return };
                if let Node::File(file) = &mut self.nodes[id] {
                    file.sync();
                } else {
                    self.sync_folder(id);
                }
            }
            What::SyncAll => {
                for node in &mut self.nodes {
                    if let Node::File(file) = node {
                        file.sync();
                    }
                }
                for change in std::mem::take(&mut self.pending) {
                    keep(&mut self.nodes, &change);
                }
            }
            What::SyncLost { all } => {
                let only = self.by_inode.get(&entry.inode).copied();
                for (id, node) in self.nodes.iter_mut().enumerate() {
                    if let Node::File(file) = node
                        && (*all || Some(id) == only)
                    {
                        file.pending.iter_mut().for_each(|change| change.lost = true);
                    }
                }
            }
            What::Failed | What::Look | What::Mark(_) => {}
        }
    }

    fn create(&mut self, entry: &Entry, node: Node) {
        let node = self.add(node);
        self.by_inode.insert(entry.inode, node);
        let to = self.place(&entry.path);
        self.put(&to, node);
        self.pending.push(Move { node, from: None, to: Some(to) });
    }

    fn edit(&mut self, entry: &Entry, edit: Edit) {
        let id = self.by_inode.get(&entry.inode).copied();
        let Some(Node::File(file)) = id.and_then(|id| self.nodes.get_mut(id)) else {
            panic!("a write to a file that nobody knows: {}", entry.path);
        };
        apply(&mut file.now, &edit);
        if entry.modified_ns != 0 {
            file.look.modified_ns = entry.modified_ns;
        }
        file.pending.push(Change { edit, lost: false });
    }

    fn place(&self, path: &str) -> Place {
        let below = Path::new(path).strip_prefix(&self.root).unwrap();
        let name = below.file_name().unwrap().to_str().unwrap().to_owned();
        let folder = self.find(below.parent().unwrap().to_str().unwrap());
        (folder.unwrap_or_else(|| panic!("no folder for {path}")), name)
    }

    /// Finds what a relative path leads to.
    fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(0, |id, part| {
            match &self.nodes[id] {
                Node::Folder { now, .. } => now.get(part).copied(),
                Node::File(_) => None,
            }
        })
    }

    fn take(&mut self, place: &Place) -> Option<NodeId> {
        match &mut self.nodes[place.0] {
            Node::Folder { now, .. } => now.remove(&place.1),
            Node::File(_) => None,
        }
    }

    fn put(&mut self, place: &Place, node: NodeId) {
        if let Node::Folder { now, .. } = &mut self.nodes[place.0] {
            now.insert(place.1.clone(), node);
        }
    }

    /// Makes the changes of a folder durable, and what they cannot be without.
    fn sync_folder(&mut self, folder: NodeId) {
        let touches = |change: &Move| change.places().any(|place| place.0 == folder);
        let mut chosen: Vec<bool> = self.pending.iter().map(touches).collect();
        for later in (0..chosen.len()).rev() {
            if !chosen[later] {
                continue;
            }
            let (before, change) = (&self.pending[..later], &self.pending[later]);
            for (chosen, earlier) in chosen.iter_mut().zip(before) {
                *chosen |= depends(change, earlier);
            }
        }
        let mut left = Vec::new();
        for (change, chosen) in std::mem::take(&mut self.pending).into_iter().zip(chosen) {
            if chosen { keep(&mut self.nodes, &change) } else { left.push(change) }
        }
        self.pending = left;
    }

    /// Returns the bytes of a file, by its absolute path, as everybody sees them with the power on.
    pub fn at(&self, path: &str) -> Option<&[u8]> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        match &self.nodes[self.find(below.to_str()?)?] {
            Node::File(file) => Some(&file.now),
            Node::Folder { .. } => None,
        }
    }

    /// Returns all files as everybody sees them with the power on.
    pub fn all(&self) -> Tree {
        let mut tree = Tree::new();
        self.gather(0, "", &mut tree);
        tree
    }

    fn gather(&self, id: NodeId, below: &str, tree: &mut Tree) {
        let Node::Folder { now, .. } = &self.nodes[id] else { return };
        for (name, child) in now {
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            match &self.nodes[*child] {
                Node::File(file) => drop(tree.insert(path, file.now.clone())),
                Node::Folder { .. } => self.gather(*child, &path, tree),
            }
        }
    }

    /// Cuts the power and writes what is left to `target`, which must not exist. Returns how its files
    /// look, for they keep their inodes and times over a power cut.
    pub fn cut(&self, survival: Survival, dice: &mut Dice, target: &Path) -> Looks {
        let mut nodes = self.nodes.clone();
        let upto = dice.below(self.pending.len() + 1);
        // What was dropped takes with it whatever came after it to the same file, name or folder.
        let mut dropped: Vec<&Move> = Vec::new();
        for (index, change) in self.pending.iter().enumerate() {
            let wanted = match survival {
                Survival::Nothing | Survival::Bytes => false,
                Survival::Everything | Survival::Names => true,
                Survival::UpToAMoment => index < upto,
                Survival::ByChance => dice.coin(),
            };
            if wanted && !dropped.iter().any(|earlier| depends(change, earlier)) {
                keep(&mut nodes, change);
            } else {
                dropped.push(change);
            }
        }
        let mut looks = Looks::new();
        write_folder(&nodes, 0, survival, dice, target, &mut looks);
        looks
    }
}

/// Returns whether one change of names cannot be without an earlier one.
fn depends(later: &Move, earlier: &Move) -> bool {
    let made = earlier.from.is_none().then_some(earlier.node);
    let names: BTreeSet<&Place> = earlier.places().collect();
    later.node == earlier.node
        || later.places().any(|place| names.contains(place) || Some(place.0) == made)
}

fn keep(nodes: &mut [Node], change: &Move) {
    if let Some((folder, name)) = &change.from
        && let Node::Folder { kept, .. } = &mut nodes[*folder]
        && kept.get(name) == Some(&change.node)
    {
        kept.remove(name);
    }
    if let Some((folder, name)) = &change.to
        && let Node::Folder { kept, .. } = &mut nodes[*folder]
    {
        kept.insert(name.clone(), change.node);
    }
}

fn write_folder(
    nodes: &[Node],
    id: NodeId,
    survival: Survival,
    dice: &mut Dice,
    target: &Path,
    looks: &mut Looks,
) {
    let Node::Folder { kept, .. } = &nodes[id] else { return };
    fs::create_dir(target).unwrap();
    for (name, child) in kept {
        let path = target.join(name);
        match &nodes[*child] {
            Node::Folder { .. } => write_folder(nodes, *child, survival, dice, &path, looks),
            Node::File(file) => {
                fs::write(&path, file.survivor(survival, dice)).unwrap();
                looks.insert(fs::metadata(&path).unwrap().ino(), file.look);
            }
        }
    }
}

impl File {
    fn sync(&mut self) {
        let (lost, synced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.lost);
        synced.iter().for_each(|change| apply(&mut self.kept, &change.edit));
        self.pending = lost;
    }

    /// Returns what is left of the file.
    fn survivor(&self, survival: Survival, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.kept.clone();
        let pending: Vec<&Edit> =
            self.pending.iter().filter(|change| !change.lost).map(|change| &change.edit).collect();
        let way = match survival {
            Survival::Nothing | Survival::Names => 0,
            Survival::Everything | Survival::Bytes => 1,
            _ if self.by_lines => dice.below(3),
            _ => dice.below(5),
        };
        match way {
            0 => {}
            1 => pending.iter().for_each(|edit| apply(&mut bytes, edit)),
            2 => {
                let upto = dice.below(pending.len() + 1);
                pending[..upto].iter().for_each(|edit| apply(&mut bytes, edit));
                if let (false, Some(Edit::Write { at, bytes: torn })) =
                    (self.by_lines, pending.get(upto))
                {
                    let torn = torn[..dice.below(torn.len().max(1))].to_vec();
                    apply(&mut bytes, &Edit::Write { at: *at, bytes: torn });
                }
            }
            3 => pending.iter().filter(|_| dice.coin()).for_each(|edit| apply(&mut bytes, edit)),
            // The length is there, the bytes are not.
            _ => bytes.resize(self.now.len().max(bytes.len()), 0),
        }
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    match edit {
        Edit::Resize(size) => bytes.resize(*size, 0),
        Edit::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests;
