//! A block device that records every write and flush, and the states that a power cut may leave.
//!
//! The kernel's own recorder (dm-log-writes) is not available everywhere, so this is a loop device
//! over a file whose file system is this process: FUSE with one file and no directory. The loop
//! device passes its writes and flushes on to that file. The protocol is the kernel's
//! (include/uapi/linux/fuse.h).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use super::*;

/// A disk writes this many bytes completely, or not at all.
const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// The content of a disk; missing blocks are zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    bytes: u64,
    blocks: HashMap<u64, Arc<[u8; BLOCK]>>,
}

impl Disk {
    pub(super) fn new(megabytes: u64) -> Self {
        Self {
            bytes: megabytes << 20,
            blocks: HashMap::new(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        for piece in pieces(offset, out) {
            if let Some(block) = self.blocks.get(&(at / BLOCK as u64)) {
                let from = at as usize % BLOCK;
                piece.copy_from_slice(&block[from..from + piece.len()]);
            }
            at += piece.len() as u64;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let from = at as usize % BLOCK;
            let (piece, more) = rest.split_at(rest.len().min(BLOCK - from));
            let block = self.blocks.entry(at / BLOCK as u64);
            let block = block.or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[from..from + piece.len()].copy_from_slice(piece);
            at += piece.len() as u64;
            rest = more;
        }
    }

    /// Returns a state that this disk may have after a power cut behind these events: everything
    /// that was flushed, and of the rest some writes, some of which are torn.
    pub(super) fn cut(&self, events: &[Event], dice: &mut impl FnMut(usize) -> usize) -> Self {
        let is_flush = |event: &Event| matches!(event, Event::Flush);
        let flushed = events.iter().rposition(is_flush).unwrap_or(0);
        let (sure, unsure) = events.split_at(flushed);
        let mut disk = self.clone();
        for event in sure {
            if let Event::Write(offset, data) = event {
                disk.write(*offset, data);
            }
        }
        // Out of 8 writes, `there` are kept and `torn` are torn.
        let (there, torn) = (dice(9), dice(3) * 2);
        for event in unsure {
            let Event::Write(offset, data) = event else {
                continue;
            };
            let is_torn = dice(8) < torn;
            let is_there = dice(8) < there;
            for (at, sector) in (*offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
                if (is_torn && dice(2) == 0) || (!is_torn && is_there) {
                    disk.write(at, sector);
                }
            }
        }
        disk
    }
}

/// Splits a buffer at the bounds of the blocks.
fn pieces(offset: u64, out: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let first = (BLOCK - offset as usize % BLOCK).min(out.len());
    let (first, rest) = out.split_at_mut(first);
    std::iter::once(first).chain(rest.chunks_mut(BLOCK))
}

/// A request to the device; they are recorded in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The offset in bytes, and the data.
    Write(u64, Vec<u8>),
    /// All writes before it are on disk, whatever happens later.
    Flush,
}

#[derive(Debug, Default)]
struct State {
    disk: Disk,
    /// The events since the recording started.
    events: Option<Vec<Event>>,
    /// Whether the file could not be mounted.
    mount_failed: bool,
}

/// A disk as a file that a file system can be mounted from; unmounted when it is dropped.
pub(super) struct Device {
    file: PathBuf,
    state: Arc<Mutex<State>>,
    _dir: TempDir,
}

impl Device {
    pub(super) fn new(disk: Disk) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        fs::write(&file, []).unwrap();
        let opened = File::options().read(true).write(true).open("/dev/fuse");
        let kernel = opened.map_err(|error| format!("/dev/fuse: {error}"))?;
        let mount_handle = kernel.try_clone().unwrap();
        let state = Arc::new(Mutex::new(State {
            disk,
            ..State::default()
        }));
        let server = Server {
            kernel,
            state: state.clone(),
        };
        thread::spawn(move || server.serve());
        // `mount` hands its standard input to the kernel.
        let mut mount = Command::new("mount");
        mount
            .args(["-i", "-t", "fuse", "-o"])
            .arg("fd=0,rootmode=100000,user_id=0,group_id=0")
            .arg("chordal-disk")
            .arg(&file)
            .stdin(Stdio::from(mount_handle));
        if let Err(why) = succeeds(&mut mount) {
            state.lock().unwrap().mount_failed = true;
            return Err(why);
        }
        Ok(Self {
            file,
            state,
            _dir: dir,
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the present content.
    pub(super) fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Starts to record events.
    pub(super) fn record(&self) {
        self.state().events = Some(Vec::new());
    }

    /// Returns the number of recorded events.
    pub(super) fn recorded(&self) -> usize {
        self.state().events.as_ref().map_or(0, Vec::len)
    }

    /// Takes the recorded events.
    pub(super) fn events(&self) -> Vec<Event> {
        self.state().events.take().unwrap_or_default()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // By force, which ends the server: if another process has a copy of the mounts, the file
        // stays.
        let gone = succeeds(Command::new("umount").args(["-f", "-l"]).arg(&self.file));
        assert!(thread::panicking() || gone.is_ok(), "{gone:?}");
    }
}

/// Runs a program of the system; returns its error output if it fails.
pub(super) fn succeeds(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Answers the kernel as long as the file is mounted.
struct Server {
    kernel: File,
    state: Arc<Mutex<State>>,
}

/// The most bytes of one write.
const MAX_WRITE: usize = 128 << 10;
const HEADER: usize = 40;

/// Requests of the kernel by their numbers.
mod request {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; MAX_WRITE + BLOCK];
        loop {
            let length = match self.kernel.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The file is not mounted yet.
                Err(error) if error.raw_os_error() == Some(EPERM) => {
                    if self.state.lock().unwrap().mount_failed {
                        return;
                    }
                    thread::yield_now();
                    continue;
                }
                // The file is no longer mounted.
                Err(_) => return,
            };
            let request = &buffer[..length];
            let (number, unique) = (u32_at(request, 4), u64_at(request, 8));
            if matches!(
                number,
                request::FORGET | request::BATCH_FORGET | request::INTERRUPT
            ) {
                continue;
            }
            let (error, body) = match self.answer(number, &request[HEADER..]) {
                Ok(body) => (0, body),
                Err(error) => (-error, Vec::new()),
            };
            let mut reply = Vec::with_capacity(16 + body.len());
            reply.extend_from_slice(&(16 + body.len() as u32).to_le_bytes());
            reply.extend_from_slice(&error.to_le_bytes());
            reply.extend_from_slice(&unique.to_le_bytes());
            reply.extend_from_slice(&body);
            // A request that was abandoned needs no reply.
            let _ = self.kernel.write_all(&reply);
        }
    }

    fn answer(&self, number: u32, body: &[u8]) -> Result<Vec<u8>, i32> {
        let mut state = self.state.lock().unwrap();
        match number {
            request::INIT => Ok(init(u32_at(body, 8))),
            request::GETATTR | request::SETATTR => Ok(attributes(state.disk.bytes)),
            request::OPEN => Ok(vec![0; 16]),
            request::READ => {
                let mut out = vec![0; u32_at(body, 16) as usize];
                state.disk.read(u64_at(body, 8), &mut out);
                Ok(out)
            }
            request::WRITE => {
                let (offset, size) = (u64_at(body, 8), u32_at(body, 16));
                let data = &body[40..40 + size as usize];
                state.disk.write(offset, data);
                if let Some(events) = &mut state.events {
                    events.push(Event::Write(offset, data.to_owned()));
                }
                Ok(u64::from(size).to_le_bytes().to_vec())
            }
            request::FSYNC => {
                if let Some(events) = &mut state.events {
                    events.push(Event::Flush);
                }
                Ok(Vec::new())
            }
            request::FLUSH | request::RELEASE => Ok(Vec::new()),
            _ => Err(ENOSYS),
        }
    }
}

fn init(max_readahead: u32) -> Vec<u8> {
    let mut out = Vec::new();
    // The version of the protocol, and no flags.
    for word in [7, 31, max_readahead, 0] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    // The limits of background requests; then the longest write, and the granularity of times in
    // ns.
    out.extend_from_slice(&16u16.to_le_bytes());
    out.extend_from_slice(&12u16.to_le_bytes());
    out.extend_from_slice(&(MAX_WRITE as u32).to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.resize(64, 0);
    out
}

/// Returns the attributes of a file for its owner, valid for an hour.
fn attributes(size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for long in [3600, 0, 1, size, size / SECTOR as u64, 0, 0, 0] {
        out.extend_from_slice(&u64::to_le_bytes(long));
    }
    // Nanoseconds; mode and links; owner, group, device; size of a block; flags.
    for word in [0, 0, 0, 0o100600, 1, 0, 0, 0, BLOCK as u32, 0] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
