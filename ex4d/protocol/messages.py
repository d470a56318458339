"""Every message of the protocol, as strict immutable types.

A message is two or three ZeroMQ frames: the magic (`codec.MAGIC`), the message as MessagePack, and
for those of `MESSAGES_WITH_BYTES` alone the raw bytes. The sender of a request makes up its
`request_id`; the answer repeats it as `in_reply_to`. Job events and previews carry a `seq` that
grows per job.

Bulk data flows under credit: the receiver of a blob grants bytes, the sender spends them. Blobs are
named by SHA-256 and belong to the user who sent them or whose job made them.

A connection begins with `Hello` (after `Pair` if the key is new) and `Welcome`. Credit, offers,
fetches and watches end with the connection, or when `Hello` is said again; blobs, what came of them
so far, and jobs outlive it. What was not answered is asked again, which is always harmless.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .documents import (
    MAX_SIDE_PX,
    DepthRange,
    EngineSettings,
    EstimatorName,
    FileRef,
    FrameCount,
    Positive,
    RelativePath,
    Sha256,
    ShortText,
    TrajectoryDocument,
)

#: Raised when old peers can no longer understand new ones; minor: optional additions only.
PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 3
#: The first minor version whose clients know `JobPreview`.
PREVIEW_MINOR = 1
#: The first minor version whose clients know `Welcome.estimators`.
ESTIMATORS_MINOR = 2
#: The first minor version whose clients know `TakeTimes`.
TAKE_TIMES_MINOR = 3
#: From here on a reconstruction may leave open whether depth is refined; before, silence meant no.
REFINES_MINOR = 3

MAX_HEADER_BYTES = 4 << 20
MAX_CHUNK_BYTES = 1 << 20
MAX_FILES_PER_MESSAGE = 16_384
MAX_TAKE_TIMES = 32

#: 32 lower-case hexadecimal digits: a uuid4.
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
LongText = Annotated[str, Meta(max_length=4096)]
ByteCount = Annotated[int, Meta(ge=0, le=2**50)]
Files = Annotated[tuple[FileRef, ...], Meta(max_length=MAX_FILES_PER_MESSAGE)]


class _Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages."""


# --- session -------------------------------------------------------------------------------------


class Limits(_Message, frozen=True, kw_only=True, tag="limits"):
    """What a peer accepts; both use the smaller of the two."""

    #: Longest third frame of a `BlobChunk`.
    max_chunk_bytes: Annotated[int, Meta(ge=4096, le=MAX_CHUNK_BYTES)] = MAX_CHUNK_BYTES
    #: Most credit, for each direction, that may be granted and not yet spent.
    window_bytes: Annotated[int, Meta(ge=4096, le=256 << 20)] = 16 << 20


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """The client's first message, again after each reconnect."""

    request_id: Id
    protocol_major: int
    protocol_minor: int
    app_version: ShortText
    limits: Limits = Limits()


class EngineInfo(_Message, frozen=True, kw_only=True, tag="engine_info"):
    """An engine that the server offers, or why it cannot."""

    name: ShortText
    available: bool
    #: Why it is not available and what to do; empty where it is.
    reason: LongText
    licence: ShortText


class EstimatorInfo(_Message, frozen=True, kw_only=True, tag="estimator_info"):
    """A depth estimator that the server offers, or why it cannot."""

    name: ShortText
    available: bool
    #: Why it is not available and what to do; empty where it is.
    reason: LongText
    licence: ShortText
    #: Whether the licence forbids production: jobs must accept it.
    for_research_only: bool


class Welcome(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="welcome"):
    """The server's answer to `Hello`."""

    in_reply_to: Id
    protocol_major: int
    protocol_minor: int
    app_version: ShortText
    user: ShortText
    limits: Limits
    engines: Annotated[tuple[EngineInfo, ...], Meta(max_length=64)]
    #: Bytes that this user may still store.
    quota_left_bytes: ByteCount
    #: What estimates depth where no file gives it, for clients from `ESTIMATORS_MINOR` on.
    estimators: Annotated[tuple[EstimatorInfo, ...], Meta(max_length=64)] = ()


class TakeTime(_Message, frozen=True, kw_only=True, tag="take_time"):
    """How long a take took: measured, without the time that it waited for others."""

    #: `take_time.kind_of` its settings.
    kind: ShortText
    #: `take_time.work_of` it.
    work: Annotated[int, Meta(ge=1, le=2**62)]
    time_s: Annotated[float, Meta(ge=0.0)]


class TakeTimes(_Message, frozen=True, kw_only=True, tag="take_times"):
    """How long takes took on this server, the newest first.

    It follows `Welcome` where any are known, and again the end of a take of the user's, and goes to
    sessions that said `Hello` with `TAKE_TIMES_MINOR` or later.
    """

    times: Annotated[tuple[TakeTime, ...], Meta(max_length=MAX_TAKE_TIMES)]


class Pair(_Message, frozen=True, kw_only=True, tag="pair"):
    """Ask to be known from now on: the only message that an unknown key may send."""

    request_id: Id
    token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22,64}\Z")]
    #: A name that the server's owner will recognise, for example `anna on studio-laptop`.
    client_name: Annotated[str, Meta(min_length=1, max_length=64)]


class Paired(_Message, frozen=True, kw_only=True, tag="paired"):
    """The key of this connection is authorised; `Hello` may follow."""

    in_reply_to: Id
    user: ShortText


class Error(_Message, frozen=True, kw_only=True, tag="error"):
    """A request was refused. The wording is for people, the code for programs."""

    #: Empty where the failed message could not be read.
    in_reply_to: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{32})?\Z")]
    code: ShortText
    message: LongText


class Ping(_Message, frozen=True, kw_only=True, tag="ping"):
    """Is the session alive? Answered by `Pong`."""

    request_id: Id


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """It is."""

    in_reply_to: Id


# --- blobs ---------------------------------------------------------------------------------------


class BlobOffer(_Message, frozen=True, kw_only=True, tag="blob_offer"):
    """The client has these blobs; which does the server still need?

    Answered by `BlobWant`. An `Error` in reply may also come later, when a blob of it fails: the
    message names it, and what was sent of the others stays.
    """

    request_id: Id
    blobs: Files


class BlobNeed(_Message, frozen=True, kw_only=True, tag="blob_need"):
    """A blob the server wants, from `have_bytes` on: what came before is already stored."""

    sha256: Sha256
    #: Always fewer than the blob has.
    have_bytes: ByteCount


class BlobWant(_Message, frozen=True, kw_only=True, tag="blob_want"):
    """The server's answer to `BlobOffer`; a blob that is not listed is already there.

    The first credit follows if anything is needed. An empty blob is never needed.
    """

    in_reply_to: Id
    needs: Annotated[tuple[BlobNeed, ...], Meta(max_length=MAX_FILES_PER_MESSAGE)]


class BlobCredit(_Message, frozen=True, kw_only=True, tag="blob_credit"):
    """The receiver of blobs allows the sender to send so many more bytes, over all blobs.

    It comes back as bytes reach the disk. Bytes that turn out not to be wanted come back as well.
    """

    grant_bytes: ByteCount


class BlobChunk(_Message, frozen=True, kw_only=True, tag="blob_chunk"):
    """The next bytes of a blob: they are this message's third frame, and at least one.

    The chunks of a blob come in order and without gaps.
    """

    sha256: Sha256
    offset_bytes: ByteCount


class BlobDone(_Message, frozen=True, kw_only=True, tag="blob_done"):
    """The server has the whole blob and its hash is right."""

    sha256: Sha256


class BlobFetch(_Message, frozen=True, kw_only=True, tag="blob_fetch"):
    """The client wants a blob, from `offset_bytes` on; chunks follow under its credit.

    Blobs come one after the other, in the order in which they were asked for. Nothing comes of one
    that has no bytes from there on. An `Error` in reply says that the blob is not there (any more).
    """

    request_id: Id
    sha256: Sha256
    offset_bytes: ByteCount


class BlobAbort(_Message, frozen=True, kw_only=True, tag="blob_abort"):
    """The client no longer sends or fetches this blob. There is no answer."""

    sha256: Sha256


# --- jobs ----------------------------------------------------------------------------------------


class ReconstructJob(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="reconstruct"):
    """Make a scene from a clip. `files` holds the clip and, where given, depth."""

    files: Files
    #: Path in `files` of the video, or of the first image of a sequence.
    clip: RelativePath
    #: Path in `files` of the depth file, or of the first image of a sequence; absent: depth is
    #: estimated.
    depth: RelativePath | None = None
    depth_kind: Literal["auto", "depth", "metric", "disparity", "reference"] = "auto"
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    first_frame: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    #: All frames to the end where absent.
    frame_count: FrameCount | None = None
    stride: Annotated[int, Meta(ge=1, le=1000)] = 1
    #: Focal length in pixels of the source's width; absent: what the clip says of its lens, or the
    #: estimator, or 60 degrees on the long side.
    focal_px: Positive | None = None
    #: What estimates depth where no file gives it; absent: the server's usual one.
    estimator: EstimatorName | None = None
    #: How an estimator's affine disparity becomes depth.
    depth_range: DepthRange = "percentile"
    #: The user accepts the estimator's licence, which forbids production.
    accepts_research_licence: bool = False
    #: Depth is refined for the mesh: steadier, sky behind all, edges those of the picture; absent:
    #: where an estimator made it, unless it is spread as the reference does it.
    refines: bool | None = None


class RenderJob(_Message, frozen=True, kw_only=True, tag="render"):
    """Render the condition of a scene along a trajectory: colour, mask and depth."""

    scene: Files
    trajectory: TrajectoryDocument


class GenerateJob(_Message, frozen=True, kw_only=True, tag="generate"):
    """Make a take of a scene along a trajectory."""

    scene: Files
    trajectory: TrajectoryDocument
    settings: EngineSettings


JobRequest = ReconstructJob | RenderJob | GenerateJob

JobState = Literal["queued", "running", "cancelling", "done", "failed", "cancelled"]
FINAL_STATES: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})


class JobSubmit(_Message, frozen=True, kw_only=True, tag="job_submit"):
    """Run a job. The same `request_id` with the same job is the same job.

    All its files must be there, or the answer is the error `blob_missing`.
    """

    request_id: Id
    job: JobRequest


class JobAccepted(_Message, frozen=True, kw_only=True, tag="job_accepted"):
    """The job is in the journal; its events follow to this session."""

    in_reply_to: Id
    job_id: Id


class JobWatch(_Message, frozen=True, kw_only=True, tag="job_watch"):
    """Send me the newest event of a job, if it is later than `after_seq`, then live ones."""

    request_id: Id
    job_id: Id
    after_seq: Annotated[int, Meta(ge=-1)] = -1


class JobCancel(_Message, frozen=True, kw_only=True, tag="job_cancel"):
    """Stop a job; harmless when it has ended. The answer is the job's newest event."""

    request_id: Id
    job_id: Id


class JobEvent(_Message, frozen=True, kw_only=True, tag="job_event"):
    """Where a job stands. The newest event says all; older ones may be skipped."""

    job_id: Id
    seq: Annotated[int, Meta(ge=0)]
    state: JobState
    #: How many times the job was started; results of an older attempt are void.
    attempt: Annotated[int, Meta(ge=0)]
    #: What is being done, for people: `rendering`.
    stage: ShortText
    done: Annotated[int, Meta(ge=0)]
    total: Annotated[int, Meta(ge=0)]
    #: Seconds that the job should still take; absent while unknown.
    eta_s: Annotated[float, Meta(ge=0.0)] | None
    #: Set when `state` is `failed`.
    error_code: ShortText
    error_message: LongText
    #: The results; set when `state` is `done`.
    files: Files


class JobPreview(_Message, frozen=True, kw_only=True, tag="job_preview"):
    """What the shot of a running job looks like so far, small and moving: the newest says all.

    Its third frame holds the pixels: `size_bytes` of uint8 sRGB, frame by frame, each from the top
    row down. It goes to sessions that watch the job and said `Hello` with `PREVIEW_MINOR` or later.
    The next one of the job comes after `JobPreviewTaken`; those in between are left out.
    """

    job_id: Id
    #: From the same series as the job's events: whatever has a smaller one is older.
    seq: Annotated[int, Meta(ge=0)]
    width_px: Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
    height_px: Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
    frame_count: FrameCount

    @property
    def size_bytes(self) -> int:
        """How long the third frame must be; more than `MAX_CHUNK_BYTES` is not allowed."""
        return self.frame_count * self.height_px * self.width_px * 3


class JobPreviewTaken(_Message, frozen=True, kw_only=True, tag="job_preview_taken"):
    """The client has read a preview of this job: the next may come. There is no answer.

    A program that is busy elsewhere therefore finds one preview when it returns, not hundreds.
    """

    job_id: Id


class JobListRequest(_Message, frozen=True, kw_only=True, tag="job_list_request"):
    """Which jobs of mine are there?"""

    request_id: Id


class JobList(_Message, frozen=True, kw_only=True, tag="job_list"):
    """The newest event of each of this user's jobs, newest job first.

    `files` is left empty here, also of jobs that are done: watch a job to get them.
    """

    in_reply_to: Id
    jobs: Annotated[tuple[JobEvent, ...], Meta(max_length=1000)]


ClientMessage = (
    Hello
    | Pair
    | Ping
    | BlobOffer
    | BlobCredit
    | BlobChunk
    | BlobFetch
    | BlobAbort
    | JobSubmit
    | JobWatch
    | JobCancel
    | JobPreviewTaken
    | JobListRequest
)
ServerMessage = (
    Welcome
    | TakeTimes
    | Paired
    | Error
    | Pong
    | BlobWant
    | BlobCredit
    | BlobChunk
    | BlobDone
    | JobAccepted
    | JobEvent
    | JobPreview
    | JobList
)

#: Messages with a third frame.
MESSAGES_WITH_BYTES = (BlobChunk, JobPreview)
