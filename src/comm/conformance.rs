//! The behavior required of every backend, as a function that each backend's tests call on every rank.

use super::{Action, Collective, Op, Request};
use crate::error::{Error, Kind};
use tch::{Device, Kind as Type, Tensor};

/// Returns values that differ by rank and position, and whose sums are inexact, so that the order of additions shows.
fn value(rank: usize, i: usize) -> f64 {
    ((rank * 31 + i * 17) % 101) as f64 / 7.0 - 6.0
}

fn row(rank: usize, n: usize, kind: Type) -> Tensor {
    let values: Vec<f64> = (0..n).map(|i| value(rank, i)).collect();
    match kind {
        Type::Int64 | Type::Uint8 => (Tensor::from_slice(&values) + 7.0).to_kind(kind),
        _ => Tensor::from_slice(&values).to_kind(kind),
    }
}

/// Returns the tensor's bytes.
fn bytes(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.to_device(Device::Cpu).view([-1]).view_dtype(Type::Uint8);
    Vec::try_from(&flat).expect("bytes of a tensor")
}

/// Runs all operations on this rank and panics on a wrong result. All ranks call it; the group stays usable.
pub fn run(comm: &dyn Collective) {
    let device = comm.device();
    for n in [1, 5, 1000, 300_007] {
        for kind in [Type::Float, Type::Double, Type::Int64, Type::Uint8, Type::Half, Type::BFloat16] {
            all_reduce(comm, n, kind, device);
            shards(comm, n, kind, device);
            broadcast(comm, n, kind, device);
        }
    }
    brief(comm);
}

/// Runs all operations in a few sizes.
fn brief(comm: &dyn Collective) {
    let device = comm.device();
    edges(comm, device);
    many_at_once(comm, device);
    many_shards_at_once(comm, device);
    group(comm, device);
    helpers(comm);
}

/// Divides the ranks in several ways, and runs all operations in each part, alternating with those of the whole group.
/// All ranks call it.
pub fn split(comm: &dyn Collective) {
    let (rank, world) = (comm.rank(), comm.world());
    // Pairs, in reversed order; ranks of the same parity; each rank alone.
    let ways: [(usize, usize); 3] = [(rank / 2, world - rank), (rank % 2, rank), (rank, 0)];
    let parts: Vec<_> = ways.into_iter().map(|(color, key)| comm.split(color, key).unwrap()).collect();
    let pair = if rank / 2 * 2 + 1 < world { 2 } else { 1 };
    let place = |part: &dyn Collective| (part.rank(), part.world());
    assert_eq!(place(&*parts[0]), (if pair == 2 { 1 - rank % 2 } else { 0 }, pair));
    assert_eq!(place(&*parts[1]), (rank / 2, (world - rank % 2).div_ceil(2)));
    assert_eq!(place(&*parts[2]), (0, 1));
    let local = |part: &dyn Collective| (part.local_world() <= part.world(), part.local_rank() < part.local_world());
    assert!(parts.iter().all(|part| local(&**part) == (true, true) && part.device() == comm.device()));
    run(&*parts[0]);
    for part in &parts {
        brief(&**part);
        // A part of a part.
        brief(&*part.split(part.rank() % 2, 0).unwrap());
        comm.barrier("the ranks of all parts").unwrap();
    }
    // Operations of several groups under way, awaited in another order than started.
    let buffers: Vec<Tensor> = (0..12).map(|i| row(rank, 50 + i, Type::Float).to_device(comm.device())).collect();
    let group = |i: usize| if i % 4 == 3 { comm } else { &*parts[i % 4] };
    let start = |(i, buffer): (usize, &Tensor)| group(i).start_all_reduce(buffer, Op::Sum, "of all groups").unwrap();
    let pending: Vec<_> = buffers.iter().enumerate().map(start).collect();
    pending.into_iter().rev().for_each(|one| one.wait().unwrap());
    for (i, buffer) in buffers.iter().enumerate() {
        let members = |other: &usize| match i % 4 {
            0 => other / 2 == rank / 2,
            1 => other % 2 == rank % 2,
            2 => *other == rank,
            _ => true,
        };
        let rows = (0..world).filter(members).map(|other| row(other, 50 + i, Type::Float).to_kind(Type::Double));
        let sum = rows.reduce(|total, next| total + next).expect("this rank's row");
        assert_close(comm, buffer, &sum, "sums of all groups");
        parts[i % 3].finish().unwrap();
    }
}

/// Returns the f64 sums of all ranks' rows, and the tolerance of a backend.
fn expected(comm: &dyn Collective, n: usize, kind: Type, op: Op) -> Tensor {
    let mut total = row(0, n, kind).to_kind(Type::Double);
    for rank in 1..comm.world() {
        let next = row(rank, n, kind).to_kind(Type::Double);
        total = if op == Op::Sum { total + next } else { total.maximum(&next) };
    }
    total
}

/// Relative and absolute tolerance of a sum. A backend may round half precision at every addition; the partial sums are
/// below `9 * world`.
fn tolerance(kind: Type, world: usize) -> (f64, f64) {
    let half_step = match kind {
        Type::Half => 2f64.powi(-11),
        Type::BFloat16 => 2f64.powi(-8),
        _ => return (1e-5, 1e-5),
    };
    (half_step, half_step * (9 * world * world.saturating_sub(2)) as f64)
}

fn assert_close(comm: &dyn Collective, got: &Tensor, want: &Tensor, label: &str) {
    let (relative, absolute) = tolerance(got.kind(), comm.world());
    let got = got.to_device(Device::Cpu).to_kind(Type::Double);
    assert!(got.allclose(want, relative, absolute, false), "{label}: {got:?} is not {want:?}");
}

fn all_reduce(comm: &dyn Collective, n: usize, kind: Type, device: Device) {
    for op in [Op::Sum, Op::Max] {
        let buffer = row(comm.rank(), n, kind).to_device(device);
        comm.start_all_reduce(&buffer, op, "all-reduce").unwrap().wait().unwrap();
        assert_close(comm, &buffer, &expected(comm, n, kind, op), "all-reduce");
        // The same bits on every rank: compare with rank 0.
        let mine = bytes(&buffer);
        let first = comm.broadcast_bytes(mine.clone(), 0, "bits").unwrap();
        assert!(first == mine, "all-reduce of {n} {kind:?}: ranks 0 and {} differ", comm.rank());
    }
}

fn shards(comm: &dyn Collective, n: usize, kind: Type, device: Device) {
    let (rank, world) = (comm.rank(), comm.world());
    let want = expected(comm, n * world, kind, Op::Sum);
    let mine = |whole: &Tensor| whole.narrow(0, (rank * n) as i64, n as i64);
    for in_place in [false, true] {
        let buffer = row(rank, n * world, kind).to_device(device);
        let shard = if in_place { mine(&buffer) } else { buffer.new_zeros([n as i64], (kind, device)) };
        comm.start_reduce_scatter(&buffer, &shard, "reduce-scatter").unwrap().wait().unwrap();
        assert_close(comm, &shard, &mine(&want), "reduce-scatter");

        let whole = Tensor::zeros([(n * world) as i64], (kind, device));
        let source = if in_place { mine(&whole) } else { shard.copy() };
        source.shallow_clone().copy_(&shard);
        comm.start_all_gather(&source, &whole, "all-gather").unwrap().wait().unwrap();
        assert_close(comm, &whole, &want, "all-gather");
    }
}

fn broadcast(comm: &dyn Collective, n: usize, kind: Type, device: Device) {
    for root in 0..comm.world() {
        let buffer = row(comm.rank(), n, kind).to_device(device);
        comm.start_broadcast(&buffer, root, "broadcast").unwrap().wait().unwrap();
        assert_eq!(bytes(&buffer), bytes(&row(root, n, kind)), "broadcast of {n} {kind:?} from rank {root}");
    }
}

/// Sums round to nearest even, overflow to infinity, and keep NaN.
fn edges(comm: &dyn Collective, device: Device) {
    if comm.world() == 1 {
        return;
    }
    for (kind, largest, bits) in
        [(Type::Float, f64::from(f32::MAX), 23), (Type::Half, 65504.0, 10), (Type::BFloat16, 3.3895313892515355e38, 7)]
    {
        let next = (-f64::from(bits)).exp2();
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let mine = match comm.rank() {
            0 => [1.0, 1.0 + next, largest, -largest, inf, nan],
            1 => [next / 2.0, next / 2.0, largest, -largest, -inf, 1.0],
            _ => [0.0; 6],
        };
        let buffer = Tensor::from_slice(&mine).to_kind(kind).to_device(device);
        comm.start_all_reduce(&buffer, Op::Sum, "edges").unwrap().wait().unwrap();
        let want = Tensor::from_slice(&[1.0, 1.0 + 2.0 * next, inf, -inf, nan, nan]);
        let got = buffer.to_device(Device::Cpu).to_kind(Type::Double);
        assert!(got.allclose(&want, 0.0, 0.0, true), "{kind:?}: {got:?} is not {want:?}");
    }
}

/// Several operations under way, awaited in another order than started; autograd records nothing.
fn many_at_once(comm: &dyn Collective, device: Device) {
    let leaf = row(comm.rank(), 100, Type::Float).to_device(device).set_requires_grad(true);
    let buffers: Vec<Tensor> =
        (0..8).map(|i| row(comm.rank() + i, 100 * (i + 1), Type::Float).to_device(device)).collect();
    let mut pending: Vec<_> = buffers
        .iter()
        .map(|buffer| comm.start_all_reduce(buffer, Op::Max, "many").unwrap())
        .chain([comm.start_broadcast(&leaf, 0, "a weight").unwrap()])
        .collect();
    while let Some(one) = pending.pop() {
        one.wait().unwrap();
    }
    for (i, buffer) in buffers.iter().enumerate() {
        let mut want = row(i, 100 * (i + 1), Type::Double);
        for rank in 1..comm.world() {
            want = want.maximum(&row(rank + i, 100 * (i + 1), Type::Double));
        }
        assert_close(comm, buffer, &want, "many at once");
    }
    assert!(leaf.requires_grad());
    assert_eq!(bytes(&leaf.detach()), bytes(&row(0, 100, Type::Float)));
}

/// The same with shards, in place and not, with all sizes and dtypes.
fn many_shards_at_once(comm: &dyn Collective, device: Device) {
    let (rank, world) = (comm.rank(), comm.world());
    let kinds = [Type::BFloat16, Type::Float, Type::Half];
    let jobs: Vec<(Type, Tensor, Tensor, Tensor)> = (0..9)
        .map(|i| {
            let (kind, n) = (kinds[i % 3], 10 + i * i * 3000);
            let buffer = row(rank, n * world, kind).to_device(device);
            let part = |whole: &Tensor| whole.narrow(0, (rank * n) as i64, n as i64);
            let shard = if i % 2 == 0 { part(&buffer) } else { buffer.new_zeros([n as i64], (kind, device)) };
            let whole = Tensor::zeros([(n * world) as i64], (kind, device));
            part(&whole).copy_(&part(&row(rank, n * world, kind)));
            (kind, buffer, shard, whole)
        })
        .collect();
    let mut pending = Vec::new();
    for (_, buffer, shard, whole) in &jobs {
        let n = shard.size()[0];
        pending.push(comm.start_reduce_scatter(buffer, shard, "many shards").unwrap());
        pending.push(comm.start_all_gather(&whole.narrow(0, rank as i64 * n, n), whole, "many shards").unwrap());
    }
    pending.into_iter().rev().for_each(|one| one.wait().unwrap());
    for (kind, _, shard, whole) in &jobs {
        let n = shard.size()[0] as usize;
        let part = |whole: &Tensor, rank: usize| whole.narrow(0, (rank * n) as i64, n as i64);
        let sum = expected(comm, n * world, *kind, Op::Sum);
        assert_close(comm, shard, &part(&sum, rank), "many reduce-scatters");
        for r in 0..world {
            assert_eq!(bytes(&part(whole, r)), bytes(&part(&row(r, n * world, *kind), r)), "many all-gathers");
        }
    }
}

/// A group with one operation of each kind; then a group of one, and an empty group.
fn group(comm: &dyn Collective, device: Device) {
    let (rank, world, n) = (comm.rank(), comm.world(), 40);
    let new = |len: usize| row(rank, len, Type::Float).to_device(device);
    let mine = |whole: &Tensor| whole.narrow(0, (rank * n) as i64, n as i64);
    let (reduced, largest, copied) = (new(n), new(3), new(7));
    let (scattered, gathered) = (new(n * world), new(n * world));
    let (sums, shard) = (mine(&scattered), mine(&gathered));
    let requests = [
        Request { action: Action::AllReduce(Op::Sum), buffer: &reduced, shard: None, what: "the reduced" },
        Request { action: Action::ReduceScatter, buffer: &scattered, shard: Some(&sums), what: "the scattered" },
        Request { action: Action::AllGather, buffer: &gathered, shard: Some(&shard), what: "the gathered" },
        Request { action: Action::Broadcast { root: world - 1 }, buffer: &copied, shard: None, what: "the copied" },
        Request { action: Action::AllReduce(Op::Max), buffer: &largest, shard: None, what: "the largest" },
    ];
    comm.start_group(&requests).unwrap().wait().unwrap();
    assert_close(comm, &reduced, &expected(comm, n, Type::Float, Op::Sum), "reduced in a group");
    assert_close(comm, &sums, &mine(&expected(comm, n * world, Type::Float, Op::Sum)), "scattered in a group");
    let parts: Vec<Tensor> =
        (0..world).map(|r| row(r, n * world, Type::Float).narrow(0, (r * n) as i64, n as i64)).collect();
    assert_eq!(bytes(&gathered), bytes(&Tensor::cat(&parts, 0)), "gathered in a group");
    assert_eq!(bytes(&copied), bytes(&row(world - 1, 7, Type::Float)), "copied in a group");
    assert_close(comm, &largest, &expected(comm, 3, Type::Float, Op::Max), "the largest in a group");

    let alone = new(5);
    let request = Request { action: Action::AllReduce(Op::Sum), buffer: &alone, shard: None, what: "alone" };
    comm.start_group(&[request]).unwrap().wait().unwrap();
    assert_close(comm, &alone, &expected(comm, 5, Type::Float, Op::Sum), "alone in a group");
    comm.start_group(&[]).unwrap().wait().unwrap();
}

fn helpers(comm: &dyn Collective) {
    let world = comm.world();
    let mut sums = [1.0, comm.rank() as f64];
    comm.all_reduce_f64(&mut sums, Op::Sum, "sums").unwrap();
    assert_eq!(sums, [world as f64, (world * (world - 1) / 2) as f64]);
    comm.barrier("barrier").unwrap();
    let last = world - 1;
    let text = if comm.rank() == last { b"from the last rank".to_vec() } else { Vec::new() };
    assert_eq!(comm.broadcast_bytes(text, last, "text").unwrap(), b"from the last rank");
    assert_eq!(comm.agree(Ok(comm.rank()), "all fine").unwrap(), comm.rank());
    let mine = if comm.rank() == last { Err(Error::input("line 3 is bad")) } else { Ok(()) };
    let error = comm.agree(mine, "the data").unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Input, "line 3 is bad"));
}
