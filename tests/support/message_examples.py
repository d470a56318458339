"""One example of each message, and a strategy for any message, made from the types themselves."""

from typing import Any, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from ex4d.protocol.documents import (
    CameraPose,
    Ex4dSettings,
    FileRef,
    PreviewSettings,
    TrajectoryDocument,
)
from ex4d.protocol.messages import (
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobFetch,
    BlobNeed,
    BlobOffer,
    BlobWant,
    ClientMessage,
    EngineInfo,
    Error,
    EstimatorInfo,
    GenerateJob,
    Hello,
    JobAccepted,
    JobCancel,
    JobEvent,
    JobList,
    JobListRequest,
    JobPreview,
    JobPreviewTaken,
    JobSubmit,
    JobWatch,
    Limits,
    Pair,
    Paired,
    Ping,
    Pong,
    ReconstructJob,
    RenderJob,
    ServerMessage,
    TakeTime,
    TakeTimes,
    Welcome,
)

ID = "0123456789abcdef0123456789abcdef"
OTHER_ID = "fedcba9876543210fedcba9876543210"
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

_FILE = FileRef(path="frames/0001.png", sha256=SHA256, size_bytes=1234)
_POSE = CameraPose(
    cam_to_world=(1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.0, -0.25, 0.0, 0.0, 1.0, 2.564),
    fx_px=500.0,
    fy_px=500.0,
    cx_px=256.5,
    cy_px=256.5,
    source_time=48,
)
_TRAJECTORY = TrajectoryDocument(width_px=512, height_px=512, poses=(_POSE,))
_EVENT = JobEvent(
    job_id=OTHER_ID,
    seq=7,
    state="running",
    attempt=1,
    stage="rendering",
    done=3,
    total=49,
    eta_s=12.5,
    error_code="",
    error_message="",
    files=(),
)

#: By name; some types have more than one, where a part of them comes in kinds.
CLIENT_EXAMPLES: dict[str, ClientMessage] = {
    "hello": Hello(
        request_id=ID,
        protocol_major=1,
        protocol_minor=0,
        app_version="0.1.0",
        limits=Limits(max_chunk_bytes=262144, window_bytes=16777216),
    ),
    "pair": Pair(request_id=ID, token="A-Za_z0123456789abcdef", client_name="anna on laptop"),
    "ping": Ping(request_id=ID),
    "blob_offer": BlobOffer(request_id=ID, blobs=(_FILE,)),
    "blob_credit": BlobCredit(grant_bytes=16777216),
    "blob_chunk": BlobChunk(sha256=SHA256, offset_bytes=262144),
    "blob_fetch": BlobFetch(request_id=ID, sha256=SHA256, offset_bytes=1000),
    "blob_abort": BlobAbort(sha256=SHA256),
    "job_submit reconstruct": JobSubmit(
        request_id=ID,
        job=ReconstructJob(
            files=(_FILE,),
            clip="clip.mp4",
            depth="depth/0001.exr",
            depth_kind="metric",
            name="flower",
            first_frame=10,
            frame_count=49,
            stride=2,
            focal_px=500.0,
        ),
    ),
    "job_submit reconstruct estimated": JobSubmit(
        request_id=ID,
        job=ReconstructJob(
            files=(_FILE,),
            clip="clip.mp4",
            name="flower",
            estimator="depthcrafter",
            depth_range="min_max",
            accepts_research_licence=True,
        ),
    ),
    "job_submit render": JobSubmit(
        request_id=ID, job=RenderJob(scene=(_FILE,), trajectory=_TRAJECTORY)
    ),
    "job_submit generate": JobSubmit(
        request_id=ID,
        job=GenerateJob(scene=(_FILE,), trajectory=_TRAJECTORY, settings=PreviewSettings(seed=42)),
    ),
    "job_submit generate ex4d": JobSubmit(
        request_id=ID,
        job=GenerateJob(
            scene=(_FILE,),
            trajectory=_TRAJECTORY,
            settings=Ex4dSettings(
                mode="draft",
                steps=4,
                guidance=1.0,
                seed=42,
                prompt="a garden",
                negative_prompt="blurred",
                loras=("four-steps",),
            ),
        ),
    ),
    "job_watch": JobWatch(request_id=ID, job_id=OTHER_ID, after_seq=6),
    "job_cancel": JobCancel(request_id=ID, job_id=OTHER_ID),
    "job_preview_taken": JobPreviewTaken(job_id=OTHER_ID),
    "job_list_request": JobListRequest(request_id=ID),
}
SERVER_EXAMPLES: dict[str, ServerMessage] = {
    "welcome": Welcome(
        in_reply_to=ID,
        protocol_major=1,
        protocol_minor=0,
        app_version="0.1.0",
        user="anna",
        limits=Limits(max_chunk_bytes=1048576, window_bytes=16777216),
        engines=(EngineInfo(name="preview", available=True, reason="", licence="Apache-2.0"),),
        quota_left_bytes=1 << 40,
    ),
    "welcome_with_estimators": Welcome(
        in_reply_to=ID,
        protocol_major=1,
        protocol_minor=2,
        app_version="0.1.0",
        user="anna",
        limits=Limits(max_chunk_bytes=1048576, window_bytes=16777216),
        engines=(),
        quota_left_bytes=0,
        estimators=(
            EstimatorInfo(
                name="depthcrafter",
                available=True,
                reason="",
                licence="academic use only",
                for_research_only=True,
            ),
        ),
    ),
    "take_times": TakeTimes(
        times=(TakeTime(kind="ex4d exact", work=642252800, time_s=1500.5),),
    ),
    "paired": Paired(in_reply_to=ID, user="anna"),
    "error": Error(in_reply_to=ID, code="not_found", message="expected a job, found none"),
    "pong": Pong(in_reply_to=ID),
    "blob_want": BlobWant(in_reply_to=ID, needs=(BlobNeed(sha256=SHA256, have_bytes=7),)),
    "blob_credit": BlobCredit(grant_bytes=1048576),
    "blob_chunk": BlobChunk(sha256=SHA256, offset_bytes=0),
    "blob_done": BlobDone(sha256=SHA256),
    "job_accepted": JobAccepted(in_reply_to=ID, job_id=OTHER_ID),
    "job_event running": _EVENT,
    "job_event done": msgspec.structs.replace(
        _EVENT, state="done", stage="", eta_s=None, files=(_FILE,)
    ),
    "job_event failed": msgspec.structs.replace(
        _EVENT, state="failed", eta_s=None, error_code="depth_size", error_message="expected 49"
    ),
    "job_preview": JobPreview(job_id=OTHER_ID, seq=8, width_px=64, height_px=48, frame_count=13),
    "job_list": JobList(in_reply_to=ID, jobs=(_EVENT,)),
}


def any_message(union: Any) -> st.SearchStrategy[Any]:
    """Any message of `ClientMessage` or `ServerMessage` that the types allow."""
    return st.one_of([_strategy(inspect.type_info(kind)) for kind in get_args(union)])


def _strategy(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _strategy(field.type) for field in fields})
        case inspect.VarTupleType(item_type=item, min_length=shortest, max_length=longest):
            most = min(longest or 3, max(3, shortest or 0))
            return st.lists(_strategy(item), min_size=shortest or 0, max_size=most).map(tuple)
        case inspect.UnionType(types=types):
            return st.one_of([_strategy(item) for item in types])
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case inspect.StrType(min_length=shortest, max_length=longest):
            characters = st.characters(codec="utf-8")
            return st.text(characters, min_size=shortest or 0, max_size=min(longest or 20, 20))
        case inspect.IntType(ge=least, lt=limit, le=most):
            return st.integers(
                -(2**63) if least is None else least,
                limit - 1 if limit is not None else 2**63 - 1 if most is None else most,
            )
        case inspect.FloatType(gt=above, ge=least, lt=below, le=most):
            return st.floats(
                min_value=above if above is not None else least,
                max_value=below if below is not None else most,
                exclude_min=above is not None,
                exclude_max=below is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.Metadata(type=inner):
            return _strategy(inner)
        case _:
            raise NotImplementedError(kind)
