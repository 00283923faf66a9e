//! The backlog: counts the live workflows of each lane and decides which workflows wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::queue::PASSES;

/// The number of a lane. A lane holds the workflows whose first tasks go to one queue; a task under
/// limits has a lane of its own, and so has each key of a limit that is divided by keys.
pub(crate) type Lane = usize;

/// The number of lanes kept, idle ones included. Above it, idle lanes are freed.
const KEPT_LANES: usize = 64;

/// Decides per lane whether a workflow starts at once. The waiting workflows are in the store, not
/// in memory.
///
/// Invariant: no workflow waits for ever in a lane with free capacity: the lane is listed by
/// [`free_capacity`](Self::free_capacity) as soon as the store holds the workflow.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// How many workflows may be live in each lane. Lanes do not share capacity, so a lane whose
    /// tasks never finish does not block the others. The lanes of keys that are not idle have an
    /// equal part each, and at least one workflow.
    capacity: usize,
    /// The number of lanes that are not idle of each limit that is divided by keys.
    families: HashMap<String, usize>,
    /// Indexed by lane number; `None` where a lane was freed.
    lanes: Vec<Option<State>>,
    /// Free lane numbers.
    free: Vec<Lane>,
    numbers: HashMap<String, Lane>,
    /// The number of lanes at which idle ones are freed.
    max_lanes: usize,
    /// The lanes that may have waiting workflows in the store.
    waiting: BTreeSet<Lane>,
    /// Those of `waiting` that may have free capacity.
    open: BTreeSet<Lane>,
}

#[derive(Debug)]
struct State {
    name: String,
    /// The length of the part of the name that the lanes of all keys share.
    family: Option<usize>,
    /// May exceed the capacity, because workflows that cannot be kept waiting are admitted over it.
    live: usize,
    /// Workflows whose wait record is submitted but not yet durable.
    arriving: usize,
    /// The queue position that was admitted last. Every waiting workflow is behind it, so each scan
    /// starts here instead of passing over the deleted positions before it.
    cursor: Option<Vec<u8>>,
    /// By priority, the last positions that were admitted out of order.
    aged: BTreeMap<u8, Vec<u8>>,
    /// How many workflows were admitted since the one that had waited longest was.
    passed: u32,
    /// It is counted among the lanes of its family: it is not idle.
    is_counted: bool,
}

impl Backlog {
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "without capacity no workflow would ever run");
        Self {
            capacity,
            lanes: Vec::new(),
            free: Vec::new(),
            families: HashMap::new(),
            numbers: HashMap::new(),
            max_lanes: KEPT_LANES,
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
        }
    }

    /// Returns the number of the lane with this name. The lane keeps the number while a workflow in
    /// it is live or waits, and at least until the next call.
    pub(crate) fn lane(&mut self, name: &str) -> Lane {
        if let Some(lane) = self.numbers.get(name) {
            return *lane;
        }
        if self.numbers.len() >= self.max_lanes {
            self.free_idle_lanes();
        }
        let lane = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            self.lanes.len() - 1
        });
        self.numbers.insert(name.to_owned(), lane);
        let state = State {
            name: name.to_owned(),
            family: family_of(name),
            live: 0,
            arriving: 0,
            cursor: None,
            aged: BTreeMap::new(),
            passed: 0,
            is_counted: false,
        };
        self.lanes[lane] = Some(state);
        lane
    }

    /// Counts a lane among those of its family, or no longer. (If it has become idle, the others
    /// have more capacity as soon as one of their workflows ends.)
    fn count_lane(&mut self, lane: Lane) {
        let is_waiting = self.waiting.contains(&lane);
        let Some(state) = &mut self.lanes[lane] else {
            return;
        };
        let is_used = is_waiting || !state.is_idle();
        if std::mem::replace(&mut state.is_counted, is_used) == is_used {
            return;
        }
        let Some(family) = state.family() else {
            return;
        };
        if is_used {
            *self.families.entry(family.to_owned()).or_default() += 1;
        } else if let Some(lanes) = self.families.get_mut(family) {
            *lanes -= 1;
            if *lanes == 0 {
                self.families.remove(family);
            }
        }
    }

    /// Frees the idle lanes. `max_lanes` becomes twice the number of lanes that are left, so the
    /// amortized cost per added lane is constant.
    fn free_idle_lanes(&mut self) {
        for (lane, state) in self.lanes.iter_mut().enumerate() {
            if !self.waiting.contains(&lane)
                && let Some(idle) = state.take_if(|state| state.is_idle())
            {
                self.numbers.remove(&idle.name);
            }
        }
        // (A lane whose workflows take long may have more capacity by now.)
        self.open.clone_from(&self.waiting);
        let used = self.lanes.iter().rposition(Option::is_some);
        self.lanes.truncate(used.map_or(0, |last| last + 1));
        self.lanes.shrink_to_fit();
        self.numbers.shrink_to_fit();
        let lanes = 0..self.lanes.len();
        self.free = lanes.filter(|lane| self.lanes[*lane].is_none()).collect();
        self.max_lanes = (2 * self.numbers.len()).max(KEPT_LANES);
    }

    fn state(&self, lane: Lane) -> &State {
        let state = self.lanes[lane].as_ref();
        state.expect("a lane is kept while a workflow is in it")
    }

    fn state_mut(&mut self, lane: Lane) -> &mut State {
        let state = self.lanes[lane].as_mut();
        state.expect("a lane is kept while a workflow is in it")
    }

    pub(crate) fn name(&self, lane: Lane) -> &str {
        &self.state(lane).name
    }

    /// Returns the queue position that was admitted last in this lane.
    pub(crate) fn cursor(&self, lane: Lane) -> Option<&Vec<u8>> {
        self.state(lane).cursor.as_ref()
    }

    /// Sets the queue position from which the next scan of this lane starts.
    pub(crate) fn set_cursor(&mut self, lane: Lane, turn: Vec<u8>) {
        self.state_mut(lane).cursor = Some(turn);
    }

    /// Admits a workflow or makes it wait, and returns whether it may start at once.
    pub(crate) fn submitted(&mut self, lane: Lane) -> bool {
        // A workflow does not overtake the ones that already wait.
        let free = self.has_capacity(lane)
            && self.state(lane).arriving == 0
            && !self.waiting.contains(&lane);
        let state = self.state_mut(lane);
        match free {
            true => state.live += 1,
            false => state.arriving += 1,
        }
        self.count_lane(lane);
        free
    }

    /// Counts a workflow as live, over the capacity if necessary: it cannot wait, or was live
    /// before a restart.
    pub(crate) fn admit_live(&mut self, lane: Lane) {
        self.state_mut(lane).live += 1;
        self.count_lane(lane);
    }

    /// Notes that a waiting workflow moves into this lane from another one.
    pub(crate) fn requeue(&mut self, lane: Lane) {
        self.state_mut(lane).arriving += 1;
        self.count_lane(lane);
    }

    /// Notes that the wait record of a workflow is durable.
    pub(crate) fn arrived(&mut self, lane: Lane) {
        let state = self.state_mut(lane);
        state.arriving = state.arriving.saturating_sub(1);
        self.note_stored(lane);
    }

    /// Notes that workflows of this lane wait in a store that has just been opened.
    pub(crate) fn note_stored(&mut self, lane: Lane) {
        self.waiting.insert(lane);
        self.open.insert(lane);
        self.count_lane(lane);
    }

    /// Notes that a live workflow has ended.
    pub(crate) fn ended(&mut self, lane: Lane) {
        let state = self.state_mut(lane);
        state.live = state.live.saturating_sub(1);
        if self.waiting.contains(&lane) {
            self.open.insert(lane);
        }
        self.count_lane(lane);
    }

    /// Notes that the store holds no more waiting workflows of this lane.
    pub(crate) fn mark_drained(&mut self, lane: Lane) {
        self.waiting.remove(&lane);
        self.open.remove(&lane);
        self.count_lane(lane);
    }

    pub(crate) fn has_capacity(&self, lane: Lane) -> bool {
        self.capacity_of(lane) > 0
    }

    fn capacity_of(&self, lane: Lane) -> usize {
        let state = self.state(lane);
        let lanes = state.family().and_then(|family| self.families.get(family));
        let part = self.capacity / lanes.copied().unwrap_or(1);
        part.max(1).saturating_sub(state.live)
    }

    /// Returns the lanes with waiting workflows and free capacity, and how much of it.
    pub(crate) fn free_capacity(&mut self) -> Vec<(Lane, usize)> {
        let open = std::mem::take(&mut self.open).into_iter();
        let free = open.map(|lane| (lane, self.capacity_of(lane)));
        let free: Vec<_> = free.filter(|(_, free)| *free > 0).collect();
        self.open = free.iter().map(|(lane, _)| *lane).collect();
        free
    }

    /// Decides whether the next workflow of a lane is the one that has waited longest, whatever its
    /// priority: that one is passed over at most [`PASSES`] times.
    pub(crate) fn is_turn_of_oldest(&self, lane: Lane) -> bool {
        self.state(lane).passed >= PASSES
    }

    /// Notes that the next workflow of a lane was admitted, or the one that had waited longest.
    pub(crate) fn count_pass(&mut self, lane: Lane, was_oldest: bool) {
        let state = self.state_mut(lane);
        match was_oldest {
            true => state.passed = 0,
            false => state.passed += 1,
        }
    }

    /// Returns the last position of this priority that was admitted out of order.
    pub(crate) fn aged(&self, lane: Lane, priority: u8) -> Option<&Vec<u8>> {
        self.state(lane).aged.get(&priority)
    }

    /// Notes that a position was admitted out of order, and that all of its priority wait behind it.
    pub(crate) fn set_aged(&mut self, lane: Lane, priority: u8, position: Vec<u8>) {
        self.state_mut(lane).aged.insert(priority, position);
    }
}

impl State {
    /// Returns whether it has no workflow in memory.
    fn is_idle(&self) -> bool {
        self.live == 0 && self.arriving == 0
    }

    /// Returns the part of the name that the lanes of all keys share.
    fn family(&self) -> Option<&str> {
        self.family.map(|length| &self.name[..length])
    }
}

/// Returns the length of the part of a lane's name that the lanes of all keys share: its queue and
/// its task.
fn family_of(name: &str) -> Option<usize> {
    let mut ends = name.match_indices('\0').map(|(at, _)| at);
    ends.nth(1)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// One lane's workflows: submitted, durable and live.
    #[derive(Default)]
    struct World {
        on_its_way: VecDeque<u32>,
        stored: VecDeque<u32>,
        live: Vec<u32>,
    }

    /// Each digit is a step: 0 a submission, 1 a commit, 2 the end of the oldest live workflow.
    #[test]
    fn workflows_start_in_order_all_of_them_and_never_more_at_once_than_the_capacity() {
        for (capacity, story) in (1..=2).flat_map(|p| (0..3u32.pow(9)).map(move |s| (p, s))) {
            let mut backlog = Backlog::new(capacity);
            let lane = backlog.lane("mail");
            let other = backlog.lane("other");
            let mut world = World::default();
            let (mut started, mut submitted) = (Vec::new(), 0);
            let mut rest = story;
            // At the end everything is committed and every workflow ends.
            let steps = (0..9).map(|_| {
                let step = rest % 3;
                rest /= 3;
                step
            });
            for step in steps.chain([1, 2].into_iter().cycle().take(40)) {
                match step {
                    0 => {
                        if backlog.submitted(lane) {
                            world.live.push(submitted);
                            started.push(submitted);
                        } else {
                            world.on_its_way.push_back(submitted);
                        }
                        submitted += 1;
                    }
                    1 => {
                        for one in world.on_its_way.drain(..) {
                            world.stored.push_back(one);
                            backlog.arrived(lane);
                        }
                    }
                    _ if !world.live.is_empty() => {
                        world.live.remove(0);
                        backlog.ended(lane);
                    }
                    _ => {}
                }
                for (lane, free) in backlog.free_capacity() {
                    for _ in 0..free {
                        let Some(next) = world.stored.pop_front() else {
                            backlog.mark_drained(lane);
                            break;
                        };
                        backlog.admit_live(lane);
                        world.live.push(next);
                        started.push(next);
                    }
                }
                assert!(world.live.len() <= capacity, "{capacity} {story}");
                assert!(
                    backlog.has_capacity(other),
                    "a lane uses another lane's capacity"
                );
            }
            assert!(started.into_iter().eq(0..submitted), "{capacity} {story}");
        }
    }

    #[test]
    fn idle_lanes_are_freed_and_the_others_keep_their_numbers() {
        let mut backlog = Backlog::new(1);
        let live = backlog.lane("live");
        backlog.admit_live(live);
        let waits = backlog.lane("waits");
        backlog.note_stored(waits);
        backlog.set_cursor(waits, vec![7]);
        let arrives = backlog.lane("arrives");
        backlog.requeue(arrives);
        for name in 0..10_000 {
            let lane = backlog.lane(&name.to_string());
            assert_eq!(backlog.cursor(lane), None, "the cursor of another lane");
            assert!(backlog.submitted(lane));
            backlog.set_cursor(lane, vec![1]);
            backlog.ended(lane);
        }
        assert!(backlog.lanes.len() <= KEPT_LANES && backlog.numbers.len() <= KEPT_LANES);
        assert_eq!(backlog.lane("live"), live);
        assert_eq!(backlog.lane("waits"), waits);
        assert_eq!(backlog.lane("arrives"), arrives);
        assert!(!backlog.has_capacity(live));
        assert_eq!(backlog.free_capacity(), [(waits, 1)]);
        assert_eq!(backlog.free_capacity(), [(waits, 1)]);
        assert_eq!(backlog.cursor(waits), Some(&vec![7]));
    }

    #[test]
    fn the_lanes_of_keys_share_the_capacity_of_one_and_each_has_some() {
        let mut backlog = Backlog::new(100);
        let other = backlog.lane("mail\0send");
        assert!(backlog.submitted(other));
        let lanes = (0..400).map(|key| {
            let lane = backlog.lane(&format!("mail\0greet\0{key}"));
            assert!(backlog.submitted(lane));
            lane
        });
        let lanes: Vec<_> = lanes.collect();
        for lane in &lanes {
            assert!(!backlog.submitted(*lane));
            backlog.arrived(*lane);
        }
        assert_eq!(backlog.free_capacity(), []);
        assert!(backlog.has_capacity(other));
        backlog.ended(lanes[7]);
        assert_eq!(backlog.free_capacity(), [(lanes[7], 1)]);
        // The fewer keys are in use, the more each has, though its lane is kept.
        for lane in &lanes[4..] {
            backlog.ended(*lane);
            backlog.mark_drained(*lane);
        }
        assert_eq!(backlog.numbers.len(), 401);
        for lane in &lanes[..4] {
            backlog.ended(*lane);
        }
        let free: Vec<_> = lanes[..4].iter().map(|lane| (*lane, 25)).collect();
        assert_eq!(backlog.free_capacity(), free);
        backlog.free_idle_lanes();
        assert_eq!(backlog.free_capacity(), free);
        for lane in &lanes[..4] {
            backlog.mark_drained(*lane);
        }
        assert!(backlog.families.is_empty());
    }
}
