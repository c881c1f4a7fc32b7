use super::*;
use crate::comm::conformance;
use crate::error::Kind;
use std::thread;

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Something that one rank does and that others wait for.
#[derive(Default)]
struct Event {
    happened: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn happens(&self) {
        *self.happened.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let happened = self.happened.lock().unwrap();
        let waited = self.changed.wait_timeout_while(happened, TIME_LIMIT, |happened| !*happened).unwrap();
        assert!(!waited.1.timed_out(), "it did not happen");
    }
}

/// Runs `rank_main` on every rank's thread; returns the results in rank order.
fn run<T: Send>(world: usize, timeout: Duration, rank_main: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let main = &rank_main;
        let ranks: Vec<_> = group(world, timeout).into_iter().map(|end| scope.spawn(move || main(end))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    })
}

#[test]
fn conforms() {
    for world in [1, 2, 3, 4] {
        run(world, TIME_LIMIT, |end| conformance::run(&*end));
    }
}

#[test]
fn parts_conform() {
    for world in [1, 2, 4, 5] {
        run(world, TIME_LIMIT, |end| conformance::split(&*end));
    }
}

#[test]
fn hosts_have_consecutive_ranks() {
    let ends = hosts(4, 2, TIME_LIMIT);
    let place = |end: &Arc<dyn Collective>| (end.local_rank(), end.local_world(), end.host_leader());
    assert_eq!(ends.iter().map(place).collect::<Vec<_>>(), [(0, 2, 0), (1, 2, 0), (0, 2, 2), (1, 2, 2)]);
}

/// Two of three ranks form a group: the others' failures end its waits, and messages have the ranks of the world.
#[test]
fn failures_pass_into_and_out_of_parts() {
    let results = run(3, TIME_LIMIT, |end| {
        let part = end.split(usize::from(end.rank() > 0), 0);
        match end.rank() {
            0 => Ok(()),
            // Rank 0 leaves the world, and with it ends the group in which it is not.
            _ => part.and_then(|part| (0..).try_for_each(|_| part.barrier("a part"))),
        }
    });
    for error in results.into_iter().skip(1).map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Peer, "rank 0 left the group"));
    }
    let failed = Event::default();
    let results = run(3, TIME_LIMIT, |end| {
        let part = end.split(usize::from(end.rank() > 0), 0).unwrap();
        end.barrier("all have their part").unwrap();
        if end.rank() == 0 {
            // A rank that leaves ends the waits of the others.
            failed.wait();
            return Ok(());
        }
        let n = if end.rank() == 2 { 5 } else { 4 };
        let buffer = Tensor::zeros([n], (tch::Kind::Float, Device::Cpu));
        let result = part.start_all_reduce(&buffer, Op::Sum, "loss").and_then(Pending::wait);
        if end.rank() == 1 {
            failed.happens();
        }
        result
    });
    let text = results[1].as_ref().unwrap_err().to_string();
    assert!(text.contains("rank 1: all-reduce (sum) of 4 f32; rank 2: all-reduce (sum) of 5 f32"), "{text}");
    let late = Event::default();
    let results = run(3, Duration::from_secs(3), |end| {
        let part = end.split(usize::from(end.rank() > 0), 0).unwrap();
        end.barrier("all have their part").unwrap();
        if end.rank() != 1 {
            late.wait();
            return Ok(());
        }
        let result = part.barrier("a part");
        late.happens();
        result
    });
    let text = results[1].as_ref().unwrap_err().to_string();
    assert!(text.contains("rank 1: \"a part\"") && text.contains(": rank 2 did not start it"), "{text}");
}

#[test]
fn a_mismatch_fails_everywhere_and_names_both() {
    let errors = run(3, TIME_LIMIT, |end| {
        let n = if end.rank() == 1 { 5 } else { 4 };
        let buffer = Tensor::zeros([n], (tch::Kind::Float, Device::Cpu));
        end.start_all_reduce(&buffer, Op::Sum, "loss").and_then(Pending::wait).unwrap_err()
    });
    for error in errors {
        assert_eq!(error.kind(), Kind::Peer);
        let text = error.to_string();
        assert!(text.contains("ranks 0, 2: all-reduce (sum) of 4 f32; rank 1: all-reduce (sum) of 5 f32"), "{text}");
    }
}

#[test]
fn a_rank_that_leaves_ends_the_others_waits() {
    let since = Instant::now();
    let results = run(3, TIME_LIMIT, |end| match end.rank() {
        2 => Ok(()),
        _ => end.barrier("the start"),
    });
    assert!(since.elapsed() < TIME_LIMIT / 2);
    for error in results.into_iter().take(2).map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Peer, "rank 2 left the group"));
    }
}

#[test]
fn abort_ends_the_others_waits() {
    let results = run(2, TIME_LIMIT, |end| match end.rank() {
        1 => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| end.abort(7))).map_err(|_| Error::other("panic")),
        _ => end.barrier("the start").map(|()| unreachable!("rank 1 never came")),
    });
    assert_eq!(results[0].as_ref().unwrap_err().to_string(), "rank 1 aborted the job with exit code 7");
}

#[test]
fn a_timeout_names_the_late_rank() {
    let late = Event::default();
    let results = run(2, Duration::from_millis(100), |end| {
        if end.rank() == 1 {
            late.wait();
            return end.barrier("the start");
        }
        let result = end.barrier("the start");
        late.happens();
        result
    });
    for error in results.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), Kind::Peer);
        let text = error.to_string();
        assert!(text.contains("rank 0: \"the start\" (collective 0) timed out after 0.1 s: rank 1 did not"), "{text}");
    }
}

#[test]
fn a_roll_call_tells_who_is_missing() {
    let called = Event::default();
    let call = |end: &dyn Collective| end.roll_call(end.rank() as i64 * 10, Duration::from_millis(100));
    let answers = run(3, TIME_LIMIT, |end| match end.rank() {
        0 => {
            let answers = call(&*end);
            called.happens();
            answers
        }
        1 => Vec::new(),
        _ => {
            called.wait();
            call(&*end)
        }
    });
    assert_eq!(answers[0], [Some(0), None, None]);
    assert_eq!(answers[2], [Some(0), None, Some(20)]);
}
