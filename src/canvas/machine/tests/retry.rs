//! Retries that use up none of the task's, among those that do.

use super::*;
use crate::canvas::machine::AttemptHistory;
use crate::canvas::options::When;

const DELAY_MS: u64 = 30;

fn asking(is_free: bool) -> AttemptOutcome {
    AttemptOutcome::Failure {
        counts: false,
        failure: failure(1),
        retry: Retry::Asked {
            when: Some(When::In(Duration::from_millis(DELAY_MS))),
            args: None,
            max_retries: None,
            is_free,
        },
    }
}

/// Every sequence of free and counted requests, with a crash after any of them: the counted ones
/// alone use up retries, and each wait is as long as asked.
#[test]
fn a_free_retry_uses_up_none_and_needs_none() {
    const STEPS: u32 = 6;
    for (free, crashes) in (0..1u32 << STEPS).flat_map(|f| (0..1u32 << STEPS).map(move |c| (f, c)))
    {
        let (mut task, _) = Task::open(7, policy(), Schedule::default(), Time::both(0));
        let mut now_ms = 0;
        let mut counted = 0;
        for step in 0..STEPS {
            let commands = task.granted(Time::both(now_ms));
            let [
                task::Command::Record(started),
                task::Command::Run { attempt, .. },
            ] = &commands[..]
            else {
                panic!("{commands:?}")
            };
            assert_eq!(*attempt, step + 1);
            let is_free = free & 1 << step != 0;
            let now = Now {
                time: Time::both(now_ms),
                random: 5,
            };
            let commands = task.finished(*attempt, asking(is_free), now);
            if !is_free && counted == MAX_RETRIES {
                let ended = task::Command::Report(Outcome::Failure(failure(1)).into());
                assert_eq!(commands, [ended], "free {free:b}, {started:?}");
                break;
            }
            counted += u32::from(!is_free);
            let until = Moment::steady(now_ms + DELAY_MS);
            let history = AttemptHistory {
                attempt: step + 1,
                retries: counted,
                ..AttemptHistory::default()
            };
            let waiting = ChildProgress::waiting(history, until);
            let expected = [
                task::Command::Record(waiting.clone()),
                task::Command::WakeAt(until),
            ];
            assert_eq!(commands, expected, "free {free:b}");
            if crashes & 1 << step != 0 {
                let (recovered, commands) = Task::recover(
                    7,
                    policy(),
                    Scale::Steady,
                    waiting,
                    [],
                    Time::both(now_ms + 1),
                );
                assert_eq!(commands, [task::Command::WakeAt(until)]);
                task = recovered;
            }
            now_ms = until.ms;
            assert_eq!(task.due(Time::both(now_ms)), [task::Command::Request]);
        }
    }
}
