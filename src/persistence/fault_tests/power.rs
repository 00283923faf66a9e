//! Power cuts: the writes and flushes of a process to a block device are recorded. A cut removes
//! unflushed data: all of it, or some writes, completely or by sectors. The rest is mounted, and
//! the store in it opened.
//!
//! The store has been through some checkpoints before, so that sled reuses space. Needs root.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::device::{Device, Disk, Event, succeeds};
use super::kill::{Process, acked, run_and_kill};
use super::*;

/// The number of cuts with each engine on each file system; more with `CHORDAL_POWER_CUTS`.
const CUTS: u64 = 3;
/// The number of cuts made of one recording.
const CUTS_OF_ONE: u64 = 40;
/// The numbers of rounds written before the recording and during it.
const ROUNDS: (u64, u64) = (160, 80);

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// Creates the file system on a new disk.
    fn make(self) -> Result<Device, String> {
        let (megabytes, args): (u64, &[&str]) = match self {
            // ext4 would lose a torn superblock of two sectors with a checksum over both.
            FileSystem::Ext4 => (
                256,
                &[
                    "mkfs.ext4",
                    "-q",
                    "-F",
                    "-E",
                    "nodiscard",
                    "-O",
                    "^metadata_csum",
                ],
            ),
            FileSystem::Xfs => (320, &["mkfs.xfs", "-q", "-f", "-K"]),
            FileSystem::Btrfs => (256, &["mkfs.btrfs", "-q", "-f", "-K"]),
        };
        let device = Device::new(Disk::new(megabytes))?;
        succeeds(Command::new(args[0]).args(&args[1..]).arg(device.file()))?;
        Ok(device)
    }

    /// Returns options that avoid periodic writes, which otherwise happen every 5 seconds.
    fn options(self) -> &'static str {
        match self {
            FileSystem::Ext4 | FileSystem::Btrfs => "loop,commit=300",
            FileSystem::Xfs => "loop",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The file system of a device, mounted as long as this lives.
struct Mount(TempDir);

impl Mount {
    fn new(system: FileSystem, device: &Device) -> Result<Self, String> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-o", system.options()]).arg(device.file());
        succeeds(mount.arg(at.path()))?;
        Ok(Self(at))
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let umount = |args: &[&str]| succeeds(Command::new("umount").args(args).arg(self.0.path()));
        // A thread of a dropped store may have a file open for a moment.
        let done = umount(&[]).or_else(|_| umount(&["-l"]));
        assert!(std::thread::panicking() || done.is_ok(), "{done:?}");
    }
}

/// A process that is killed when this is dropped.
struct RunningProcess(Child);

impl Drop for RunningProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The events of one process on a disk.
struct Recording {
    before: Disk,
    /// The last round acknowledged before the recording.
    first_round: u64,
    events: Vec<Event>,
    /// The number of recorded events at which a round was acknowledged.
    acks: Vec<(usize, u64)>,
}

impl Recording {
    fn make(engine: Engine, system: FileSystem) -> Result<Self, String> {
        let device = system.make()?;
        let process = |mounted: &Mount| {
            let process = Process::new(engine, &mounted.home()).for_power();
            process.load(Load::Large)
        };
        let mounted = Mount::new(system, &device)?;
        // The recorded process opens the store that a kill has left.
        let first_round = run_and_kill(process(&mounted), ROUNDS.0);
        drop(mounted);
        let before = device.disk();
        device.record();
        let mounted = Mount::new(system, &device)?;
        let mut process = process(&mounted).rounds(ROUNDS.1);
        let mut process_guard =
            RunningProcess(process.command().stderr(Stdio::null()).spawn().unwrap());
        let lines = BufReader::new(process_guard.0.stdout.take().unwrap()).lines();
        let rounds = lines.filter_map(|line| acked(&line.unwrap()));
        let acks = rounds.map(|round| (device.recorded(), round)).collect();
        drop(process_guard);
        let events = device.events();
        drop(mounted);
        Ok(Self {
            before,
            first_round,
            events,
            acks,
        })
    }

    /// Cuts the power at a random event, and opens the store; then cuts it again at a random event
    /// of that open. Returns whether the file system survived: one with a checksum over several
    /// sectors of its superblock may not, whatever it contains.
    fn cut(
        &self,
        engine: Engine,
        system: FileSystem,
        dice: &mut impl FnMut(usize) -> usize,
    ) -> Result<bool, String> {
        let at = dice(self.events.len() + 1);
        let known = self.acks.iter().take_while(|(ack, _)| *ack <= at).last();
        let acked = known.map_or(self.first_round, |(_, round)| *round);
        let left = self.before.cut(&self.events[..at], dice);
        // Mounts a disk, opens its store and returns the events of that.
        let opened = |disk: Disk| -> Result<Option<Vec<Event>>, String> {
            let device = Device::new(disk)?;
            device.record();
            let Ok(mounted) = Mount::new(system, &device) else {
                return Ok(None);
            };
            check_recovered(engine, Load::Large, &mounted.home(), acked)?;
            drop(mounted);
            Ok(Some(device.events()))
        };
        let of =
            |events: &[Event]| format!("of {} events, {acked} rounds acknowledged", events.len());
        let written = opened(left.clone())
            .map_err(|why| format!("cut behind {at} {}: {why}", of(&self.events)))?;
        let Some(written) = written else {
            return Ok(false);
        };
        let again = dice(written.len() + 1);
        opened(left.cut(&written[..again], dice))
            .map(|events| events.is_some())
            .map_err(|why| format!("cut behind {at}, then {again} {}: {why}", of(&written)))
    }
}

fn cuts(engine: Engine, system: FileSystem) {
    let cuts = number("CHORDAL_POWER_CUTS", CUTS);
    if let Err(why) = system
        .make()
        .and_then(|device| Mount::new(system, &device).map(drop))
    {
        eprintln!("SKIPPED: {cuts} power cuts with {engine:?} on {system}: {why}");
        return;
    }
    // Other cuts in each run: a fault missed in one run may be found in the next.
    let seed = std::process::id().into();
    let mut noise = noise(seed).skip(9);
    let mut dice = |sides: usize| (noise.next().unwrap() >> 20) as usize % sides;
    let mut recording = None;
    let mut survived = 0;
    for done in 0..cuts {
        if done % CUTS_OF_ONE == 0 {
            recording = Some(Recording::make(engine, system).unwrap());
        }
        let recording: &Recording = recording.as_ref().unwrap();
        match recording.cut(engine, system, &mut dice) {
            Ok(has_survived) => survived += u64::from(has_survived),
            Err(why) => panic!("{engine:?} on {system}, after {done} trials: {why}"),
        }
    }
    assert!(
        2 * survived > cuts,
        "{system} survived {survived} of {cuts} cuts"
    );
    eprintln!("{engine:?} on {system}: {survived} trials with power cuts");
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_ext4_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Ext4);
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_xfs_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Xfs);
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_btrfs_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Btrfs);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_ext4_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Ext4);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_xfs_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Xfs);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_btrfs_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Btrfs);
}
