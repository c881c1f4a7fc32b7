//! Tests of writing checkpoints.

use super::*;
use crate::checkpoint::run_dir::Resume;
use crate::checkpoint::tensor_writer::Entry;
use crate::comm::threads;
use std::fs;
use std::sync::mpsc;
use tch::{Device, Kind, Tensor};

/// The checkpoints of a run of `writers` in a folder, of which rank 0 has the lock.
fn checkpoints(output_dir: &Path, writers: Writers, comm: Arc<dyn Collective>) -> Result<Checkpoints> {
    let open = || RunDir::open(output_dir, &Resume::None, true).map(|(dir, _)| dir);
    Ok(Checkpoints {
        dir: comm.is_main().then(open).transpose()?,
        output_dir: output_dir.to_owned(),
        writers,
        comm,
        names: HfNames { prefix: "", headless: false, params: Vec::new(), legacy: &[] },
        settings: String::new(),
        origin: PathBuf::new(),
        adapter: None,
        generation: None,
        more: Vec::new(),
        limit: Some(1),
        keeps_best: false,
        pending: None,
    })
}

/// Starts the checkpoint `step`, whose files are written by `work`, which gets the folder.
fn begin(
    checkpoints: &mut Checkpoints,
    step: u64,
    work: impl FnOnce(&Path) -> Result<()> + Send + 'static,
) -> Result<()> {
    checkpoints.settle()?;
    let (building, folder) = checkpoints.create(&format!("checkpoint-{step}"))?;
    let mut queue = FileQueue::background(1 << 20)?;
    let folder = folder.expect("a rank that writes");
    let (rank, world) = (checkpoints.comm.rank(), checkpoints.comm.world());
    let others = (0..world).filter(|&other| other != rank).map(|other| folder.join(other.to_string()));
    let of_others = others.collect();
    queue.push(1, move || work(&folder));
    queue.close();
    let (began, pause, queue, background) = (Instant::now(), Duration::ZERO, Some(queue), true);
    checkpoints.pending =
        Some(Pending { step, best: None, queue, failed: None, building, of_others, began, pause, background });
    Ok(())
}

/// Three ranks write a folder; `broken` cannot. Returns what each rank got.
fn write_together(output_dir: &Path, broken: Option<usize>) -> Vec<Result<()>> {
    let rank_main = |comm: Arc<dyn Collective>| -> Result<()> {
        let rank = comm.rank();
        let mut checkpoints = checkpoints(output_dir, Writers::All, comm)?;
        begin(&mut checkpoints, 1, move |to| {
            folder::write_file(&to.join(rank.to_string()), format!("{broken:?}").as_bytes())?;
            if broken == Some(rank) { Err(Error::other("no space left")) } else { Ok(()) }
        })?;
        let saved = checkpoints.settle()?;
        assert_eq!(saved.map(|saved| saved.step), (rank == 0).then_some(1));
        Ok(())
    };
    let main = &rank_main;
    thread::scope(|scope| {
        let ends = threads::group(3, Duration::from_secs(20)).into_iter();
        let ranks: Vec<_> = ends.map(|comm| scope.spawn(move || main(comm))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    })
}

/// Whichever rank fails, all learn it, the previous checkpoint stays, and nothing else does.
#[test]
fn a_failure_of_any_rank_keeps_only_the_previous_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let content = || {
        let of = |path: &Path| fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let mut all = of(dir.path());
        all.extend(of(&dir.path().join("checkpoint-1")));
        let mut all: Vec<(PathBuf, Option<String>)> =
            all.into_iter().map(|path| (path.clone(), fs::read_to_string(path).ok())).collect();
        all.sort();
        all
    };
    assert!(write_together(dir.path(), None).iter().all(Result::is_ok));
    let before = content();
    assert_eq!(before.len(), 1 + 3 + 1, "the folder, three files and the mark: {before:?}");
    for broken in 0..3 {
        for (rank, result) in write_together(dir.path(), Some(broken)).into_iter().enumerate() {
            let message = result.expect_err("an error").to_string();
            let host = format!("rank {broken} on {}: ", host_name());
            assert!(message.contains("no space left") && message.contains(&host) == (broken > 0), "{rank}: {message}");
        }
        assert_eq!(content(), before, "rank {broken} failed");
    }
}

/// While files are written the previous checkpoint stays the newest; afterwards it is removed by the limit.
#[test]
fn a_checkpoint_appears_when_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let comm = threads::group(1, Duration::from_secs(20)).remove(0);
    let mut checkpoints = checkpoints(dir.path(), Writers::Rank0, comm).unwrap();
    let names = || {
        let entries = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| name != ".lock").collect();
        names.sort();
        names
    };
    begin(&mut checkpoints, 1, |to| folder::write_file(&to.join("a"), b"1")).unwrap();
    assert_eq!(checkpoints.settle().unwrap().unwrap().step, 1);
    assert_eq!(checkpoints.settle().unwrap(), None);
    let (open, closed) = mpsc::channel();
    let work = move |to: &Path| {
        closed.recv().unwrap();
        folder::write_file(&to.join("a"), b"2")
    };
    begin(&mut checkpoints, 2, work).unwrap();
    assert_eq!(checkpoints.poll(), None);
    assert_eq!(names(), [".checkpoint-2.tmp", "checkpoint-1"]);
    open.send(()).unwrap();
    let saved = checkpoints.rescue().unwrap();
    assert_eq!((saved.step, names()), (2, vec!["checkpoint-2".to_owned()]));
    assert!(saved.total >= saved.pause && dir.path().join("checkpoint-2").join(folder::COMPLETE).exists());
    assert_eq!((checkpoints.poll(), checkpoints.settle().unwrap()), (None, None));

    begin(&mut checkpoints, 3, |_| Err(Error::other("no space left"))).unwrap();
    while !checkpoints.has_failed() {
        assert_eq!(checkpoints.poll(), None);
    }
    assert_eq!((checkpoints.rescue(), checkpoints.poll()), (None, None));
    let message = checkpoints.settle().unwrap_err().to_string();
    assert_eq!(
        message,
        "checkpoint of step 3 not written (earlier ones are kept: continue with --resume auto): no space left"
    );
    assert_eq!(names(), ["checkpoint-2"]);
}

/// What is written is what the tensor was, not what it has become.
#[test]
fn weights_that_change_are_copied_first() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
    let entry = |name: &str, shape: [i64; 2]| Entry { name: name.into(), shape: shape.into(), kind: Kind::Float };
    for (set, background) in [("direct.safetensors", false), ("background.safetensors", true)] {
        let queue = if background { FileQueue::background(1).unwrap() } else { FileQueue::direct() };
        let phase = saving("a test", 2);
        let mut files = Files { folder: Some(dir.path()), queue, phase, of_others: Vec::new() };
        let (open, closed) = mpsc::channel();
        if background {
            files.queue.push(0, move || closed.recv().map_err(|e| Error::other(e.to_string())));
        }
        let share = Share { rank: 0, writers: 1 };
        let mut file = Sink::create(set, vec![entry("a", [2, 3]), entry("b", [3, 2])], share, &mut files);
        let mut values = tensor.copy();
        file.write(&mut files, || vec![("a".to_owned(), values.shallow_clone())]);
        if background {
            _ = values.zero_();
            open.send(()).unwrap();
        }
        file.write(&mut files, || vec![("b".to_owned(), tensor.tr())]);
        file.finish(&mut files);
        files.queue.join().unwrap();
        let read = TensorFiles::open(&dir.path().join(set)).unwrap();
        let read = |name: &str| read.of(name).unwrap().read(name).unwrap();
        assert!(read("a") == tensor && read("b") == tensor.tr().contiguous(), "{set}");
    }
}
