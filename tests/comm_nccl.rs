//! The NCCL backend between processes, on a machine without a GPU: the fakes of libcuda and libnccl are loaded in
//! place of the real libraries. What the fakes check is checked here too, by code that is wrong on purpose.
//!
//! Each `rank_*` test below is what one rank does; it is ignored unless the test that starts it names it.

mod common;
#[path = "../src/comm/conformance.rs"]
mod conformance;

use common::fakes::Fakes;
use common::process::{Ended, assert_timed_out, mpi_is_here, run};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use trainer::comm::mpi::Mpi;
use trainer::comm::nccl::Nccl;
use trainer::comm::{Action, Collective, Op, Request};
use trainer::error;
use trainer::observe::logs;

const PATIENCE: Duration = Duration::from_secs(600);
/// The timeout of a rank that waits for one that does not come.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What a stream sleeps before each piece of work where a test says so: what the host does meanwhile takes far less, on
/// a busy machine too.
const DELAY: Duration = Duration::from_secs(2);
const SLOW: &[(&str, &str)] = &[("FAKE_DELAY_US", "2000000-2000000")];

/// Runs `rank_{name}` on `world` ranks that load the fakes.
fn ranks(world: usize, name: &str, variables: &[(&str, &str)]) -> Ended {
    let fakes = Fakes::new();
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &world.to_string(), "--oversubscribe"])
        .arg(std::env::current_exe().expect("the test executable has a path"))
        .args(["--exact", &format!("rank_{name}"), "--nocapture", "--ignored", "--test-threads=1"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMP_NUM_THREADS", "1")
        .envs(variables.iter().copied());
    run(fakes.load_in(&mut command))
}

fn connect() -> Arc<dyn Collective> {
    connect_for(PATIENCE)
}

fn connect_for(timeout: Duration) -> Arc<dyn Collective> {
    let below = Arc::new(Mpi::connect(timeout).unwrap());
    logs::start(logs::LogFormat::Text, below.rank());
    Arc::new(Nccl::connect(below, timeout).unwrap())
}

/// Prints one line in one piece: the ranks share their output.
fn say(line: &str) {
    use std::io::Write;
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

fn ones(n: i64) -> Tensor {
    Tensor::ones([n], (Kind::Float, Device::Cpu))
}

#[test]
fn conforms() {
    if !mpi_is_here() {
        return;
    }
    for world in 1..=4 {
        let text = ranks(world, "conforms", &[("FAKE_DELAY_US", "500")]).expect(0).text();
        for rank in 0..world {
            assert!(text.contains(&format!("rank {rank} of {world} conforms")), "world {world}: {text}");
        }
    }
}

#[test]
#[ignore = "started by conforms"]
fn rank_conforms() {
    let comm = connect();
    assert_eq!((comm.name(), comm.device()), ("nccl", Device::Cpu));
    conformance::run(&*comm);
    comm.finish().unwrap();
    comm.finish().unwrap();
    say(&format!("rank {} of {} conforms", comm.rank(), comm.world()));
}

/// Parts of the ranks, by `ncclCommSplit` and, with a version that lacks it, by new ids.
#[test]
fn parts_conform() {
    if !mpi_is_here() {
        return;
    }
    for (world, version) in [(1, "22907"), (2, "22907"), (4, "22907"), (4, "21705")] {
        let text = ranks(world, "parts_conform", &[("FAKE_NCCL_VERSION", version)]).expect(0).text();
        assert_eq!(text.matches(": parts conform").count(), world, "{text}");
    }
}

#[test]
#[ignore = "started by parts_conform"]
fn rank_parts_conform() {
    let comm = connect();
    conformance::split(&*comm);
    comm.finish().unwrap();
    say(&format!("rank {}: parts conform", comm.rank()));
}

/// The host computes while the streams work, and waits only for what is left.
#[test]
fn collectives_overlap_with_computing() {
    if mpi_is_here() {
        ranks(2, "overlap", SLOW).expect(0);
    }
}

#[test]
#[ignore = "started by collectives_overlap_with_computing"]
fn rank_overlap() {
    let comm = connect();
    let buffers: Vec<Tensor> = (0..2).map(|_| ones(1000)).collect();
    comm.barrier("together").unwrap();
    let since = Instant::now();
    let all: Vec<_> = buffers.iter().map(|b| comm.start_all_reduce(b, Op::Sum, "overlapped").unwrap()).collect();
    assert!(since.elapsed() < DELAY, "starting waited: {:?}", since.elapsed());
    // Computing, on a machine whose cores the ranks do not share, for one delay more than the stream needs.
    std::thread::sleep(3 * DELAY);
    let since = Instant::now();
    all.into_iter().for_each(|one| one.wait().unwrap());
    assert!(since.elapsed() < DELAY, "there was still something to wait for: {:?}", since.elapsed());
    assert!(buffers.iter().all(|b| b.equal(&(ones(1000) * 2.0))));
    comm.finish().unwrap();
}

/// Grouped operations are one piece of the stream's work, with one delay and one entry in the journal.
#[test]
fn a_group_is_one_piece_of_work() {
    if mpi_is_here() {
        ranks(2, "group", SLOW).expect(0);
    }
}

#[test]
#[ignore = "started by a_group_is_one_piece_of_work"]
fn rank_group() {
    let comm = connect();
    let buffers: Vec<Tensor> = (0..8).map(|_| ones(10)).collect();
    let request = |buffer| Request { action: Action::AllReduce(Op::Sum), buffer, shard: None, what: "grouped" };
    comm.barrier("together").unwrap();
    let since = Instant::now();
    comm.start_group(&buffers.iter().map(request).collect::<Vec<_>>()).unwrap().wait().unwrap();
    // Eight pieces of work would take at least eight delays.
    let took = since.elapsed();
    assert!(took > DELAY && took < 8 * DELAY, "{took:?}");
    assert!(buffers.iter().all(|b| b.equal(&(ones(10) * 2.0))));
    comm.finish().unwrap();
}

/// Asserts that `rank_{name}` on two ranks ends with exit code 5 and says all this; returns all that it said.
fn is_found_out(name: &str, variables: &[(&str, &str)], says: &[&str]) -> Option<String> {
    if !mpi_is_here() {
        return None;
    }
    let text = ranks(2, name, variables).expect(5).text();
    for part in says {
        assert!(text.contains(part), "{name}: says nothing of {part:?}: {text}");
    }
    Some(text)
}

/// Waits for operations that the watchdog will end the job over.
fn wait_in_vain(comm: &dyn Collective, pending: impl IntoIterator<Item = trainer::comm::Pending>) -> ! {
    pending.into_iter().for_each(|one| one.wait().unwrap());
    comm.barrier("the end").unwrap();
    panic!("nobody noticed");
}

#[test]
fn swapped_collectives_are_found_out() {
    let sides = "rank 0: all-reduce (sum) of 4 f32; rank 1: broadcast from rank 0 of 4 f32";
    is_found_out("swapped", &[], &["(NCCL error 5): the ranks differ in collective 0: ", sides]);
}

#[test]
#[ignore = "started by swapped_collectives_are_found_out"]
fn rank_swapped() {
    let (comm, a, b) = (connect(), ones(4), ones(4));
    let reduce = || comm.start_all_reduce(&a, Op::Sum, "a").unwrap();
    let broadcast = || comm.start_broadcast(&b, 0, "b").unwrap();
    let both = if comm.is_main() { [reduce(), broadcast()] } else { [broadcast(), reduce()] };
    wait_in_vain(&*comm, both);
}

#[test]
fn sizes_that_differ_are_found_out() {
    let sides = "rank 0: all-reduce (sum) of 4 f32, 2 of 2 in its group; rank 1: all-reduce (sum) of 5 f32, 2 of 2";
    is_found_out("sizes", &[], &["the ranks differ in collective 1: ", sides]);
}

#[test]
#[ignore = "started by sizes_that_differ_are_found_out"]
fn rank_sizes() {
    let comm = connect();
    let (a, b) = (ones(4), ones(4 + comm.rank() as i64));
    let request = |buffer| Request { action: Action::AllReduce(Op::Sum), buffer, shard: None, what: "gradients" };
    let group = comm.start_group(&[request(&a), request(&b)]).unwrap();
    wait_in_vain(&*comm, [group]);
}

/// A result that is written to before it is waited for, even by arithmetic that would leave a NaN.
#[test]
fn an_early_write_is_found_out() {
    let found = "collective 0, all-reduce (sum) of 4 f32: the buffer of the result was written (element 2) before";
    is_found_out("writes_early", SLOW, &[found]);
}

#[test]
#[ignore = "started by an_early_write_is_found_out"]
fn rank_writes_early() {
    let (comm, buffer) = (connect(), ones(4));
    let pending = comm.start_all_reduce(&buffer, Op::Sum, "gradients").unwrap();
    _ = buffer.narrow(0, 2, 1).g_add_scalar_(1.0);
    wait_in_vain(&*comm, [pending]);
}

#[test]
fn an_early_write_of_the_input_is_found_out() {
    let found = "collective 0, all-gather of 4 f32 a rank: the input was written (element 3) before";
    is_found_out("writes_input_early", SLOW, &[found]);
}

#[test]
#[ignore = "started by an_early_write_of_the_input_is_found_out"]
fn rank_writes_input_early() {
    let (comm, shard, whole) = (connect(), ones(4), ones(8));
    let pending = comm.start_all_gather(&shard, &whole, "weights").unwrap();
    _ = shard.narrow(0, 3, 1).fill_(7.0);
    wait_in_vain(&*comm, [pending]);
}

/// A result that is read before it is waited for is not a number; waited for, it is right.
#[test]
fn an_early_read_sees_no_number() {
    if mpi_is_here() {
        ranks(2, "reads_early", SLOW).expect(0);
    }
}

#[test]
#[ignore = "started by an_early_read_sees_no_number"]
fn rank_reads_early() {
    let comm = connect();
    let rank = comm.rank() as i64;
    let whole = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16].map(|kind| ones(8).to_kind(kind));
    let shards = whole.each_ref().map(|whole| whole.narrow(0, rank * 4, 4));
    let gather = |(buffer, shard)| Request { action: Action::AllGather, buffer, shard: Some(shard), what: "weights" };
    // As a group, whose one delay is enough for all of them.
    let pending = comm.start_group(&whole.iter().zip(&shards).map(gather).collect::<Vec<_>>()).unwrap();
    for whole in &whole {
        let nans = whole.to_kind(Kind::Float).isnan().sum(Kind::Int64).int64_value(&[]);
        assert_eq!(nans, 8, "{:?}", whole.kind());
    }
    pending.wait().unwrap();
    assert!(whole.iter().all(|whole| whole.to_kind(Kind::Float).equal(&ones(8))), "{whole:?}");
    comm.finish().unwrap();
}

/// NCCL tells nobody that a rank does not come: the watchdog does.
#[test]
fn a_rank_that_does_not_come_is_named() {
    let says = ["ERROR rank 0: \"the epoch\", all-reduce (sum) of 1 f64", "no answer from rank 1 "];
    if let Some(text) = is_found_out("late", &[], &says) {
        assert_timed_out(&text, "timed out after ", TIMEOUT.as_secs_f64());
    }
}

#[test]
#[ignore = "started by a_rank_that_does_not_come_is_named"]
fn rank_late() {
    let comm = connect_for(TIMEOUT);
    comm.barrier("the start").unwrap();
    if !comm.is_main() {
        std::thread::sleep(PATIENCE);
    }
    comm.barrier("the epoch").unwrap();
}

/// One buffer, two operations, no wait between them: refused whether or not the first has already run.
#[test]
fn a_buffer_in_use_is_refused() {
    if !mpi_is_here() {
        return;
    }
    let text = ranks(2, "uses_twice", &[("FAKE_DELAY_US", "0")]).expect(0).text();
    let found = "collective 1, broadcast from rank 0 of 2 f32: its buffer is still that of collective 0, all-reduce (sum) \
                 of 4 f32: the computing stream did not wait for it";
    assert!(text.matches(found).count() == 2, "{text}");
}

#[test]
#[ignore = "started by a_buffer_in_use_is_refused"]
fn rank_uses_twice() {
    let (comm, buffer) = (connect(), ones(4));
    let pending = comm.start_all_reduce(&buffer, Op::Sum, "first").unwrap();
    std::thread::sleep(Duration::from_millis(300)); // it has run, and nobody has waited for it
    let part = buffer.narrow(0, 0, 2);
    say(&comm.start_broadcast(&part, 0, "second").err().expect("it is refused").to_string());
    pending.wait().unwrap();
    comm.finish().unwrap();
}

/// A function of one of the fakes, as a pointer to a function of its type.
fn function<F: Copy>(fakes: &Fakes, library: &str, name: &str) -> F {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    let path = CString::new(fakes.path(library).display().to_string()).unwrap();
    let symbol = CString::new(name).unwrap();
    // SAFETY: C strings; loading a fake asks for nothing; whoever calls this gives the function's own type.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
        assert!(!library.is_null(), "{path:?}");
        let address = libc::dlsym(library, symbol.as_ptr());
        assert!(!address.is_null(), "{name}");
        std::mem::transmute_copy(&address)
    }
}

/// A collective whose stream was not told to wait for the computing stream since the one before it: by calls as C makes
/// them, on one rank.
#[test]
fn a_stream_that_does_not_follow_is_refused() {
    type Handle = *mut c_void;
    #[repr(C)]
    struct Id([u8; 128]);
    let fakes = Fakes::new();
    macro_rules! cuda {
        ($name:ident($($kind:ty),*)) => {
            function::<extern "C" fn($($kind),*) -> c_int>(&fakes, "libcuda.so.1", stringify!($name))
        };
    }
    macro_rules! nccl {
        ($name:ident($($kind:ty),*) -> $result:ty) => {
            function::<extern "C" fn($($kind),*) -> $result>(&fakes, "libnccl.so.2", stringify!($name))
        };
    }
    let (mut context, mut stream, mut event, mut comm) = (null_mut(), null_mut(), null_mut(), null_mut());
    let create_stream = cuda!(cuStreamCreate(&mut Handle, c_uint));
    assert_eq!(create_stream(&mut stream, 0), 3, "before cuInit");
    assert_eq!(cuda!(cuInit(c_uint))(0), 0);
    assert_eq!(create_stream(&mut stream, 0), 201, "no context is current");
    assert_eq!(cuda!(cuDevicePrimaryCtxRetain(&mut Handle, c_int))(&mut context, 0), 0);
    assert_eq!(cuda!(cuCtxPushCurrent_v2(Handle))(context), 0);
    assert_eq!(create_stream(&mut stream, 0), 0);
    assert_eq!(cuda!(cuEventCreate(&mut Handle, c_uint))(&mut event, 0), 0);
    let mut id = Id([0; 128]);
    assert_eq!(nccl!(ncclGetUniqueId(&mut Id) -> c_int)(&mut id), 0);
    assert_eq!(nccl!(ncclCommInitRank(&mut Handle, c_int, Id, c_int) -> c_int)(&mut comm, 1, id, 0), 0);

    let all_reduce = nccl!(ncclAllReduce(*mut f32, *mut f32, usize, c_int, c_int, Handle, Handle) -> c_int);
    let last = nccl!(ncclGetLastError(Handle) -> *const c_char);
    let reduce = |buffer: &mut [f32]| {
        let (place, n) = (buffer.as_mut_ptr(), buffer.len());
        match all_reduce(place, place, n, 7, 0, comm, stream) {
            0 => Ok(()),
            // SAFETY: a C string that is never freed.
            5 => Err(unsafe { CStr::from_ptr(last(comm)) }.to_str().unwrap().to_owned()),
            code => panic!("NCCL error {code}"),
        }
    };
    let refused = |outcome: Result<(), String>, why: &str| {
        let text = outcome.expect_err(why);
        assert!(text.contains("the communication stream does not wait for the computing stream"), "{why}: {text}");
    };
    let record = |stream| assert_eq!(cuda!(cuEventRecord(Handle, Handle))(event, stream), 0);
    let wait = |stream| assert_eq!(cuda!(cuStreamWaitEvent(Handle, Handle, c_uint))(stream, event, 0), 0);
    // Kept apart: a buffer whose operation was refused stays its own.
    let mut buffers = [[1f32; 4]; 6];
    let [first, second, third, fourth, fifth, sixth] = &mut buffers;
    refused(reduce(first), "nothing was waited for");
    wait(stream);
    refused(reduce(second), "the event was never recorded");
    record(null_mut());
    refused(reduce(third), "recorded, but not waited for");
    wait(stream);
    assert_eq!(reduce(fourth), Ok(()));
    wait(stream);
    refused(reduce(fifth), "recorded before the last collective");
    record(null_mut());
    wait(stream);
    assert_eq!(reduce(sixth), Ok(()));
    record(stream);
    wait(null_mut()); // the host waits
    assert_eq!((buffers[3], buffers[5]), ([1.0; 4], [1.0; 4]));
    assert!(buffers[0][0].is_nan(), "the place of a result was poisoned at the call");
}
