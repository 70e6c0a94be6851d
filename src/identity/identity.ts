/**
 * Who calls: access keys and the principals behind them, and whether a principal may do a thing.
 *
 * Today one account with its root, whose keys are given at start. `authorize` is the seam for policies: every operation
 * already asks it, root is allowed everything.
 */

/** Somebody who can sign a request. */
export interface Principal {
  readonly kind: 'root';
  readonly account: string;
  readonly arn: string;
}

/** What a wire layer needs to check a signature made with an access key. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Set for temporary credentials: the request must carry exactly this token. */
  readonly sessionToken?: string;
  /** ms since the epoch, for temporary credentials. */
  readonly expiresAt?: number;
  readonly principal: Principal;
}

export type Decision =
  | { readonly allowed: true }
  /** Why not, as the end of the sentence "User … is not authorized to perform … because …". */
  | { readonly allowed: false; readonly because: string };

export interface Identity {
  readonly account: string;
  /** The account's root: who a request counts as where signatures are not checked. */
  readonly root: Principal;
  /** The credentials behind an access key id. */
  authenticate(accessKeyId: string): Credentials | undefined;
  /** Whether `principal` may do `action` (`lambda:RunMicrovm`) to `resource` (an ARN, or `*`). */
  authorize(principal: Principal, action: string, resource: string): Decision;
}

export interface IdentityOptions {
  /** Twelve digits. */
  readonly account: string;
  /** Access keys of the account's root. */
  readonly rootKeys: readonly {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
    readonly expiresAt?: number;
  }[];
}

export function createIdentity(options: IdentityOptions): Identity {
  const { account } = options;
  const root: Principal = { kind: 'root', account, arn: `arn:aws:iam::${account}:root` };
  const keys = new Map(options.rootKeys.map((key) => [key.accessKeyId, { ...key, principal: root }]));
  return {
    account,
    root,
    authenticate: (accessKeyId) => keys.get(accessKeyId),
    authorize: (principal) => {
      switch (principal.kind) {
        case 'root':
          return { allowed: true };
        default:
          return principal.kind satisfies never;
      }
    },
  };
}
