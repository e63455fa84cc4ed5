//! What a layer means, in memory: the model that unpacking is compared with. Written from the specification, with no
//! thought for safety or speed.

use std::collections::{BTreeMap, VecDeque};

use super::snapshot::{CHARACTER, DIRECTORY, FIFO, FILE, Node, Picture, SYMLINK};
use super::tarball::Member;

/// The model refuses the layer.
#[derive(Debug)]
pub struct Refused;

type Result<T> = std::result::Result<T, Refused>;

#[derive(Clone)]
struct Inode {
    node: Node,
    children: BTreeMap<Vec<u8>, usize>,
}

/// A file system; inode 0 is its root.
pub struct Reference {
    inodes: Vec<Inode>,
    /// A link was replaced by something else: which times directories behind it get is left open.
    pub replaced_link: bool,
}

impl Reference {
    pub fn new() -> Self {
        let mut new = Self {
            inodes: Vec::new(),
            replaced_link: false,
        };
        new.directory();
        new
    }

    pub fn apply(&mut self, member: &Member) -> Result<()> {
        let path = clean(&member.path)?;
        let Some((name, above)) = path.split_last() else {
            return self.describe_root(member);
        };
        if name == b".wh..wh..opq" {
            let at = self.walk(above, true)?;
            self.hide(at);
            return Ok(());
        }
        let parent = self.walk(above, true)?;
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            match self.child(parent, hidden) {
                None => drop(self.add(parent, hidden, CHARACTER)),
                Some(at) if self.is(at, DIRECTORY) => self.hide(at),
                Some(_) => {}
            }
            return Ok(());
        }
        match member.flag {
            b'5' => {
                let there = self.child(parent, name);
                let at = match there {
                    Some(at) if self.is(at, DIRECTORY) => at,
                    _ => self.add(parent, name, DIRECTORY),
                };
                if there.is_some_and(|there| self.is_whiteout(there)) {
                    self.hide(at);
                }
                self.describe(at, member);
            }
            b'1' => {
                let target = clean(&member.link)?;
                let (last, above) = target.split_last().ok_or(Refused)?;
                let from = self.walk(above, false)?;
                let at = self.child(from, last).ok_or(Refused)?;
                if self.is(at, DIRECTORY) {
                    return Err(Refused);
                }
                self.put(parent, name, at);
            }
            b'2' => {
                let at = self.add(parent, name, SYMLINK);
                self.describe(at, &member.clone().mode(0o777));
                self.inodes[at].node.content = member.link.clone();
            }
            flag => {
                let kind = [(b'0', FILE), (b'3', CHARACTER), (b'6', FIFO)];
                let kind = kind.iter().find(|(f, _)| *f == flag).unwrap().1;
                let at = self.add(parent, name, kind);
                self.describe(at, member);
                self.inodes[at].node.content = member.content.clone();
                if flag == b'3' {
                    self.inodes[at].node.device = rustix::fs::makedev(member.device.0, member.device.1);
                }
            }
        }
        Ok(())
    }

    /// As [`super::snapshot`] would see it.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        let mut waiting = vec![(Vec::new(), 0)];
        while let Some((path, at)) = waiting.pop() {
            let mut node = self.inodes[at].node.clone();
            node.same_as = at.to_be_bytes().to_vec();
            for (name, child) in &self.inodes[at].children {
                let joined = if path.is_empty() {
                    name.clone()
                } else {
                    [&path[..], b"/", name].concat()
                };
                waiting.push((joined, *child));
            }
            picture.insert(path, node);
        }
        let mut first = BTreeMap::new();
        for (path, node) in &mut picture {
            node.same_as = first
                .entry(node.same_as.clone())
                .or_insert_with(|| path.clone())
                .clone();
        }
        picture
    }

    fn describe_root(&mut self, member: &Member) -> Result<()> {
        if member.flag != b'5' {
            return Err(Refused);
        }
        self.describe(0, member);
        Ok(())
    }

    fn walk(&mut self, path: &[Vec<u8>], make: bool) -> Result<usize> {
        let mut todo: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut stack = vec![0];
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            let here = *stack.last().unwrap();
            if part == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            match self.child(here, &part) {
                Some(at) if self.is(at, DIRECTORY) => stack.push(at),
                Some(at) if self.is(at, SYMLINK) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    let target = self.inodes[at].node.content.clone();
                    if target.starts_with(b"/") {
                        stack = vec![0];
                    }
                    for part in parts(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                Some(at) if self.is_whiteout(at) && make => {
                    let new = self.add(here, &part, DIRECTORY);
                    self.hide(new);
                    stack.push(new);
                }
                None if make => stack.push(self.add(here, &part, DIRECTORY)),
                _ => return Err(Refused),
            }
        }
        Ok(*stack.last().unwrap())
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        self.inodes[parent].children.get(name).copied()
    }

    fn is(&self, at: usize, kind: u32) -> bool {
        self.inodes[at].node.kind() == kind
    }

    fn is_whiteout(&self, at: usize) -> bool {
        self.is(at, CHARACTER) && self.inodes[at].node.device == 0
    }

    fn hide(&mut self, at: usize) {
        let xattrs = &mut self.inodes[at].node.xattrs;
        xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    }

    fn directory(&mut self) -> usize {
        let node = Node {
            mode: DIRECTORY | 0o755,
            owner: (0, 0),
            device: 0,
            mtime: (0, 0),
            content: Vec::new(),
            xattrs: BTreeMap::new(),
            same_as: Vec::new(),
        };
        self.inodes.push(Inode {
            node,
            children: BTreeMap::new(),
        });
        self.inodes.len() - 1
    }

    fn add(&mut self, parent: usize, name: &[u8], kind: u32) -> usize {
        let at = self.directory();
        if kind != DIRECTORY {
            self.inodes[at].node.mode = kind;
        }
        self.put(parent, name, at);
        at
    }

    fn put(&mut self, parent: usize, name: &[u8], at: usize) {
        let before = self.inodes[parent].children.insert(name.to_vec(), at);
        self.replaced_link |= before.is_some_and(|before| before != at && self.is(before, SYMLINK));
    }

    fn describe(&mut self, at: usize, member: &Member) {
        let node = &mut self.inodes[at].node;
        node.mode = node.kind() | member.mode;
        node.owner = (member.uid as u32, member.gid as u32);
        node.mtime = (member.mtime as i64, 0);
        for (key, value) in &member.pax {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                node.xattrs.insert(name.to_vec(), value.clone());
            }
        }
    }
}

fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).collect()
}

fn clean(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let parts = parts(path);
    if parts.iter().any(|part| part == b"..") {
        Err(Refused)
    } else {
        Ok(parts)
    }
}
