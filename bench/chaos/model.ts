/**
 * What was acknowledged, and what may therefore be seen. Knows nothing of how the server works: every rule here is one a
 * user would insist on.
 */

export class ModelMicrovm {
  readonly id: string;
  readonly endpoint: string;
  /** Highest count an answer showed. */
  acknowledged = 0;
  /** Increments that were sent. */
  sent = 0;
  /** A terminate was sent, whether or not it was answered. */
  terminateSent = false;
  terminateAcknowledged = false;
  /** Something that may end a microVM was done to it: its process was killed, its memory or its disk ran out. */
  mayDie = false;
  /** Seen TERMINATED once. */
  isOver = false;

  constructor(id: string, endpoint: string) {
    this.id = id;
    this.endpoint = endpoint;
  }

  /** What is wrong with seeing `state`; undefined when it may be. */
  objection(state: string, reason: string | undefined): string | undefined {
    if (state === 'TERMINATED') {
      this.isOver = true;
      return this.terminateSent || this.mayDie ? undefined : `${this.id} ended though nobody asked: ${reason}`;
    }
    if (this.isOver) return `${this.id} is ${state} after it was TERMINATED`;
    if (this.terminateAcknowledged) return `${this.id} is ${state} though its end was acknowledged`;
    if (state === 'RUNNING' || state === 'SUSPENDED') return undefined;
    return `${this.id} stays ${state}`;
  }

  /** What is wrong with the counts the app shows. */
  countObjection(seen: {
    readonly memory: number;
    readonly file: number;
    readonly refused: number;
  }): string | undefined {
    const { memory, file, refused } = seen;
    if (memory < this.acknowledged) return `${this.id} counts ${memory}, but ${this.acknowledged} was acknowledged`;
    if (memory > this.sent) return `${this.id} counts ${memory}, but only ${this.sent} were sent`;
    // What a full disk refused may be there or not, and nobody was told that it is.
    if (file > memory || file < memory - refused) {
      return `${this.id} counts ${memory} in memory and ${file} on disk, which refused ${refused}`;
    }
    this.acknowledged = memory;
    return undefined;
  }
}

/** An image whose build was acknowledged. It comes to an end of its own or breaks; once deleted it is gone for good. */
export class ModelImage {
  readonly arn: string;
  deleteSent = false;
  deleteAcknowledged = false;
  isGone = false;

  constructor(arn: string) {
    this.arn = arn;
  }

  /** What is wrong with seeing `state`, or with seeing nothing. */
  objection(state: string | undefined): string | undefined {
    if (state === undefined) {
      this.isGone = true;
      return this.deleteSent ? undefined : `${this.arn} was acknowledged and is not known any more`;
    }
    if (this.isGone) return `${this.arn} is ${state} after it was gone`;
    if (this.deleteAcknowledged) return `${this.arn} is ${state} though its removal was acknowledged`;
    if (state === 'CREATED' || state === 'CREATE_FAILED') return undefined;
    return `${this.arn} stays ${state}`;
  }
}
