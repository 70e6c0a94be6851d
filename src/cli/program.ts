/** The command line: names, flags and help. Each action loads what it needs when it runs, so that help and refusals are quick. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { type Environment, type RawSettings, SETTINGS } from '../config.ts';
import { EXIT_CODE_HELP } from './exit.ts';

const STATE_FLAG = '--state <dir>';
const STATE_HELP =
  "the server's state folder (default: the AWS_ENDPOINT_URL_… of your environment, else the default folder)";
const JSON_HELP = 'print the result as JSON';

/** `done` receives the exit code of commands that have one of their own. */
export function createProgram(env: Environment, done: (exitCode: number) => void): Command {
  const program = new Command('rekindle')
    .description('Self-hosted AWS Lambda MicroVMs: real virtual machines, launched from snapshots of running apps.')
    .addHelpText(
      'after',
      `\n${EXIT_CODE_HELP}\n\nExample:\n  $ rekindle serve &\n  $ rekindle images build examples/counter\n  $ rekindle run counter\n  $ rekindle curl <id> /count`,
    )
    .showHelpAfterError('(rekindle <command> --help shows what it takes)')
    .configureHelp({ showGlobalOptions: false });
  addServer(program, env, done);
  addImages(program, env);
  addDisk(program, env);
  addMicrovms(program, env, done);
  addConnectors(program, env);
  addIdentity(program, env);
  return program;
}

function addServer(program: Command, env: Environment, done: (exitCode: number) => void): void {
  const serve = program.command('serve').description('run the server in the foreground until SIGTERM or Ctrl-C');
  for (const { flag, value, help, fallback, env: variable } of Object.values(SETTINGS)) {
    serve.option(`${flag} ${value}`, `${help} [${variable}; default: ${fallback}]`);
  }
  serve
    .option('--config <file>', 'JSON file with the same settings, by their camelCase names [REKINDLE_CONFIG]')
    .option('--json', 'print the ready line with JSON')
    .addHelpText('after', examples('rekindle serve', 'rekindle serve --state ./state --api-port 0 --log-level warn'))
    .action(async ({ json, ...flags }: RawSettings & { json?: boolean }) => {
      const { serve: run } = await import('./commands/serve.ts');
      done(await run(flags, { json: json === true }, env));
    });

  command(program, 'env', 'print export lines that make any AWS client talk to the server')
    .addHelpText('after', examples('eval "$(rekindle env)" && aws lambda-microvms list-microvms'))
    .action(async (options) => (await import('./commands/env.ts')).printEnvironment(options, env));

  command(program, 'doctor', 'say what this host has, what it lacks, and how to mend it')
    .option('--cache <dir>', `${SETTINGS.cache.help} [${SETTINGS.cache.env}]`)
    .option('--api-port <n>', 'the port the server is to have')
    .addHelpText('after', examples('rekindle doctor', 'rekindle doctor --json'))
    .action(async (options) => done(await (await import('./commands/doctor.ts')).doctor(options, env)));

  program
    .command('demo')
    .description('the whole job on this machine: build, launch, call, suspend, wake, terminate; leaves nothing behind')
    .option('--json', JSON_HELP)
    .option('--cache <dir>', `${SETTINGS.cache.help} [${SETTINGS.cache.env}]`)
    .option('--log-level <level>', 'how much of the server to show on stderr', 'warn')
    .addHelpText('after', examples('rekindle demo'))
    .action(async (options) => done(await (await import('./commands/demo.ts')).demo(options, env)));
}

function addImages(program: Command, env: Environment): void {
  const images = program.command('images').description('build images and look at them');
  command(
    images,
    'build',
    'build an image, or the next version of one, from a folder with a Dockerfile, and wait for it',
  )
    .argument('<dir>', 'the folder; all of it but .git is sent')
    .option('--name <name>', "the image's name (default: the folder's)")
    .addOption(
      new Option('--memory <MiB>', 'least memory of its microVMs').choices(['512', '1024', '2048', '4096', '8192']),
    )
    .option('--env <NAME=value>', 'a variable for the app, frozen into the snapshot; repeatable', collect)
    .option(
      '--egress <connector>',
      'the network connector that the build, and microVMs by default, may connect through',
    )
    .option('--hooks <file>', 'JSON: the hooks that the app answers, as CreateMicrovmImage takes them')
    .option('--quiet', 'do not show the build log')
    .addHelpText(
      'after',
      examples('rekindle images build ./app', 'rekindle images build ./app --name shop --memory 1024 --env MODE=prod'),
    )
    .action(async (dir, options) => (await import('./commands/images.ts')).buildImage(dir, options, env));

  command(images, 'ls', 'list images')
    .addHelpText('after', examples('rekindle images ls'))
    .action(async (options) => (await import('./commands/images.ts')).listImages(options, env));

  command(images, 'rm', 'delete an image with its versions; none of its microVMs may be left')
    .argument('<image>', 'name or ARN')
    .addHelpText('after', examples('rekindle images rm counter'))
    .action(async (image, options) => (await import('./commands/images.ts')).removeImage(image, options, env));

  command(images, 'rebuild', "make an image's next version from the root disk, else the artifact, of an earlier one")
    .argument('<image>', 'name or ARN')
    .option('--image-version <version>', 'such as 1.0 (default: the newest that failed, else the newest that built)')
    .addHelpText('after', examples('rekindle images rebuild counter --image-version 1.0'))
    .action(async (image, options) => (await import('./commands/images.ts')).rebuildImage(image, options, env));

  command(
    images,
    'reseal',
    "make a version's snapshot anew on this host, after a change of QEMU or kernel; same version",
  )
    .argument('[image[:version]]', 'name or ARN (default: its latest active version)')
    .option('--all', 'every version of every image whose snapshot needs it')
    .addHelpText('after', examples('rekindle images reseal counter', 'rekindle images reseal --all'))
    .action(async (image, options) => (await import('./commands/reseal.ts')).resealImages(image, options, env));

  const files = () => import('./commands/image-files.ts');
  command(images, 'export', "write an image's version to a file, to be imported elsewhere")
    .argument('<image>[:version]', 'name or ARN (default: its latest active version)')
    .argument('<file>', 'must not be there yet')
    .addHelpText(
      'after',
      examples('rekindle images export counter counter.rekindle', 'rekindle images export counter:2.0 c2.rekindle'),
    )
    .action(async (image, file, options) => (await files()).exportImage(image, file, options, env));

  command(images, 'import', 'make an image, or its next version, of an exported file')
    .argument('<file>')
    .option('--name <name>', "the image's name (default: as it was exported)")
    .option('--egress <connector>', 'in place of the connectors it was exported with')
    .addHelpText(
      'after',
      examples('rekindle images import counter.rekindle', 'rekindle images import counter.rekindle --name shop'),
    )
    .action(async (file, options) => (await files()).importImage(file, options, env));

  command(images, 'root-disk', "write a version's root disk to a file, as its build left it: raw ext4, sparse")
    .argument('<image>[:version]', 'name or ARN (default: its latest active version, else its latest that failed)')
    .argument('<file>', 'must not be there yet')
    .addHelpText('after', examples('rekindle images root-disk counter disk.ext4', "debugfs -R 'ls -l /' disk.ext4"))
    .action(async (image, file, options) => (await files()).exportRootDisk(image, file, options, env));

  command(images, 'provenance', 'print how a version came to be: an in-toto statement with a SLSA provenance predicate')
    .argument('<image>', 'name, name:version or ARN')
    .option('--packages', 'print what is installed in it instead: an SPDX document')
    .addHelpText(
      'after',
      examples('rekindle images provenance counter', 'rekindle images provenance counter:2.0 --packages'),
    )
    .action(async (image, options) => (await import('./commands/provenance.ts')).provenance(image, options, env));

  command(images, 'gc', 'take away what nothing owns on disk, and old versions if told how many to keep')
    .option('--dry-run', 'only say what would go')
    .option('--keep <n>', 'delete inactive and failed versions too, but for the newest n of each image')
    .option('--older-than <days>', 'delete inactive and failed versions that last changed so long ago')
    .addHelpText('after', examples('rekindle images gc --dry-run', 'rekindle images gc --keep 2 --older-than 30'))
    .action(async (options) => (await import('./commands/disk.ts')).collectGarbage(options, env));

  command(images, 'log', "print a version's build log")
    .argument('<image>', 'name or ARN')
    .option('--image-version <version>', 'such as 1.0 (default: the newest that built, else the newest that failed)')
    .option('-f, --follow', 'go on until the build has ended')
    .addHelpText('after', examples('rekindle images log counter', 'rekindle images log counter -f'))
    .action(async (image, options) => (await import('./commands/images.ts')).imageLog(image, options, env));
}

function addDisk(program: Command, env: Environment): void {
  command(program, 'du', 'what takes how much disk: images, microVMs, caches, logs, and what nothing owns')
    .argument('[image]', 'name or ARN: only its versions and microVMs')
    .addHelpText('after', examples('rekindle du', 'rekindle du counter', 'rekindle du --json'))
    .action(async (image, options) => (await import('./commands/disk.ts')).diskUse(image, options, env));
}

function addMicrovms(program: Command, env: Environment, done: (exitCode: number) => void): void {
  const load = () => import('./commands/microvms.ts');
  command(program, 'run', 'launch a microVM and print its id')
    .argument('<image>', "the image's name or ARN")
    .option('--image-version <version>', 'such as 1.0 (default: the latest active)')
    .option('--idle <seconds>', 'suspend it after so long without traffic (60 or more)', '900')
    .option('--no-idle', 'never suspend it by itself; a suspended one then wakes on "resume" only')
    .option('--suspended-for <seconds>', 'terminate it after so long in suspension', '28800')
    .option('--no-auto-resume', 'traffic does not wake it')
    .option('--max-duration <seconds>', 'terminate it after so long in any case')
    .option('--payload <text>', 'handed to the run hook')
    .option(
      '--egress <connector>',
      "may connect to what this network connector allows; repeatable (default: the image's)",
      collect,
    )
    .option('--shell', 'lets "rekindle shell" in: SHELL_INGRESS beside HTTP_INGRESS')
    .option('--no-wait', 'do not wait until it is RUNNING')
    .addHelpText(
      'after',
      examples('rekindle run counter', 'rekindle run counter --idle 60', 'id=$(rekindle run counter)'),
    )
    .action(async (image, options) => (await load()).runMicrovm(image, options, env));

  command(program, 'ls', 'list microVMs')
    .option('-a, --all', 'terminated ones too')
    .addHelpText('after', examples('rekindle ls', 'rekindle ls --all --json'))
    .action(async (options) => (await load()).listMicrovms(options, env));

  command(program, 'url', "print a microVM's address, or a curl command with a token")
    .argument('<id>')
    .option('--token', 'print a curl command line that works')
    .option(
      '--port <n>',
      'with --token: for this port only (default: every port, 8080 when the request names none)',
      port,
    )
    .option('--minutes <n>', 'with --token: how long the token works (1 to 60)', '60')
    .addHelpText('after', examples('rekindle url <id>', 'eval "$(rekindle url <id> --token)"'))
    .action(async (id, options) => (await load()).printUrl(id, options, env));

  command(program, 'curl', "send a request to a microVM's app; wakes it if it may be woken")
    .argument('<id>')
    .argument('[path]', 'path and query', '/')
    .option('-X, --request <method>', 'GET, or POST with --data')
    .option('-H, --header <line>', 'a header; repeatable', collect)
    .option('-d, --data <text>', 'the body')
    .option('-p, --port <n>', "the app's port in the microVM (default 8080)", port)
    .option('-i, --include', "print the answer's head too")
    .addHelpText(
      'after',
      examples(
        'rekindle curl <id> /count',
        "rekindle curl <id> /items -d '{\"a\":1}' -H 'content-type: application/json'",
      ),
    )
    .action(async (id, path, options) => (await load()).curl(id, path, options, env));

  command(program, 'shell', "a root shell in a microVM's app container; wakes it if it may be woken")
    .argument('<id>', 'of one launched with "rekindle run --shell"')
    .addHelpText('after', examples('rekindle shell <id>', "echo 'df -h' | rekindle shell <id>"))
    .action(async (id, options) => done(await (await import('./commands/shell.ts')).shell(id, options, env)));

  command(program, 'tunnel', 'a TCP port of this host that leads into a microVM, until Ctrl-C')
    .argument('<id>')
    .argument('<local>:<port>', 'the port here (0 for any free one) and the port there')
    .addHelpText('after', examples('rekindle tunnel <id> 15432:5432', 'rekindle tunnel <id> 0:9229'))
    .action(async (id, spec, options) =>
      done(await (await import('./commands/tunnel.ts')).tunnel(id, spec, options, env)),
    );

  command(program, 'suspend', 'save a microVM to disk and give back its memory')
    .argument('<id>')
    .option('--no-wait', 'do not wait until it is SUSPENDED')
    .addHelpText('after', examples('rekindle suspend <id>'))
    .action(async (id, options) => (await load()).suspendMicrovm(id, options, env));

  command(program, 'resume', 'bring a suspended microVM back')
    .argument('<id>')
    .option('--no-wait', 'do not wait until it is RUNNING')
    .addHelpText('after', examples('rekindle resume <id>'))
    .action(async (id, options) => (await load()).resumeMicrovm(id, options, env));

  command(program, 'rm', 'terminate microVMs')
    .argument('[ids...]')
    .option('-a, --all', 'all of them')
    .option('--no-wait', 'do not wait until they are TERMINATED')
    .addHelpText('after', examples('rekindle rm <id>', 'rekindle rm --all'))
    .action(async (ids, options) => (await load()).removeMicrovms(ids, options, env));

  command(program, 'logs', "print what a microVM's app wrote to stdout and stderr")
    .argument('<id>')
    .option('-f, --follow', 'go on until it ends')
    .option('-t, --timestamps', 'with the time of each line')
    .addHelpText('after', examples('rekindle logs <id>', 'rekindle logs -f <id>'))
    .action(async (id, options) => (await load()).microvmLogs(id, options, env));

  command(program, 'rotate-token-key', 'make endpoint tokens with a new key; issued ones stay good')
    .addHelpText('after', examples('rekindle rotate-token-key'))
    .action(async (options) => (await import('./commands/tokens.ts')).rotateTokenKey(options, env));

  command(program, 'drain', 'suspend what runs and let nothing start, before the host is serviced')
    .option('--off', 'let microVMs start again')
    .option('--timeout <seconds>', 'give up waiting after this many', '300')
    .addHelpText('after', examples('rekindle drain', 'rekindle drain --off'))
    .action(async (options) => (await import('./commands/drain.ts')).drain(options, env));

  command(program, 'flows', 'print what a microVM reached and tried to reach')
    .argument('<id>')
    .option('-f, --follow', 'go on until it ends')
    .option('--refused', 'only what was refused')
    .option('--dns', 'only names it asked for')
    .addHelpText(
      'after',
      examples('rekindle flows <id>', 'rekindle flows <id> -f --refused', 'rekindle flows <id> --json'),
    )
    .action(async (id, options) => (await import('./commands/flows.ts')).microvmFlows(id, options, env));
}

function addConnectors(program: Command, env: Environment): void {
  const load = () => import('./commands/connectors.ts');
  const connectors = program.command('connectors').description('network connectors: where microVMs may connect to');
  command(connectors, 'create', 'create a connector and wait until it can be used')
    .argument('<name>')
    .option('--subnet <id>', 'of the networks file; repeatable (default: a built-in one that leads nowhere)', collect)
    .option('--security-group <id>', 'of the networks file; repeatable (default: all that the subnets reach)', collect)
    .option('--role <arn>', 'its operator role')
    .option('--no-wait', 'do not wait until it is ACTIVE')
    .addHelpText(
      'after',
      examples(
        'rekindle connectors create office --subnet subnet-1 --security-group sg-web',
        "rekindle connectors create pypi && rekindle connectors domains pypi set pypi.org '*.pythonhosted.org'",
      ),
    )
    .action(async (name, options) => (await load()).createConnector(name, options, env));

  command(connectors, 'ls', 'list connectors')
    .addHelpText('after', examples('rekindle connectors ls'))
    .action(async (options) => (await load()).listConnectors(options, env));

  command(connectors, 'show', 'print a connector with its domain list, as JSON')
    .argument('<name>', 'name, id or ARN')
    .addHelpText('after', examples('rekindle connectors show office'))
    .action(async (name, options) => (await load()).showConnector(name, options, env));

  command(connectors, 'rm', 'delete a connector that no microVM uses any more')
    .argument('<name>', 'name, id or ARN')
    .addHelpText('after', examples('rekindle connectors rm office'))
    .action(async (name, options) => (await load()).removeConnector(name, options, env));

  command(connectors, 'domains', 'narrow a connector to domain names, show them, or take the list away')
    .argument('<name>', 'name, id or ARN')
    .argument('[action]', 'show, set or clear', 'show')
    .argument('[domains...]', 'with set: all the names there are to be; *. in front means every name below')
    .option('--ports <list>', 'for these names, such as 443,8000-8100 (default: 80,443)')
    .option('--opaque', 'do not ask for TLS or HTTP with the same name')
    .addHelpText(
      'after',
      examples(
        "rekindle connectors domains office set example.com '*.pypi.org'",
        'rekindle connectors domains office set db.example.com --ports 5432 --opaque',
        'rekindle connectors domains office clear',
      ),
    )
    .action(async (name, action, names, options) => (await load()).connectorDomains(name, action, names, options, env));
}

function addIdentity(program: Command, env: Environment): void {
  const load = () => import('./commands/identity.ts');
  const identity = program.command('identity').description('who may do what: users, keys, roles, policies');
  for (const kind of ['user', 'role'] as const) {
    const group = identity.command(kind).description(`${kind}s of the account`);
    command(group, 'create', `create a ${kind}; without a policy it may do nothing`)
      .argument('<name>')
      .addHelpText('after', examples(`rekindle identity ${kind} create ann`))
      .action(async (name, options) => (await load()).createHolder(kind, name, options, env));
    command(group, 'ls', `list ${kind}s`)
      .addHelpText('after', examples(`rekindle identity ${kind} ls`))
      .action(async (options) => (await load()).listHolders(kind, options, env));
    command(group, 'rm', `remove a ${kind} with its policies${kind === 'user' ? ' and keys' : ''}`)
      .argument('<name>')
      .addHelpText('after', examples(`rekindle identity ${kind} rm ann`))
      .action(async (name, options) => (await load()).removeHolder(kind, name, options, env));
    if (kind === 'role') addRevocations(group, env);
  }
  addKeys(identity, env);
  addPolicies(identity, env);
}

function addRevocations(role: Command, env: Environment): void {
  const load = () => import('./commands/identity.ts');
  command(role, 'revoke', "take a role's credentials back from every microVM and give none until it is restored")
    .argument('<role>', 'its name or ARN')
    .addHelpText('after', examples('rekindle identity role revoke arn:aws:iam::000000000000:role/agent'))
    .action(async (name, options) => (await load()).revokeRole(name, options, env));
  command(role, 'restore', 'let a revoked role give credentials again')
    .argument('<role>', 'its name or ARN')
    .addHelpText('after', examples('rekindle identity role restore agent'))
    .action(async (name, options) => (await load()).restoreRole(name, options, env));
  command(role, 'revoked', 'list the roles that are revoked')
    .addHelpText('after', examples('rekindle identity role revoked'))
    .action(async (options) => (await load()).listRevoked(options, env));
}

function addKeys(identity: Command, env: Environment): void {
  const load = () => import('./commands/identity.ts');
  const key = identity.command('key').description('access keys of users, at most two each');
  command(key, 'create', 'make an access key and print it; the secret is shown this once')
    .argument('<user>')
    .addHelpText('after', examples('eval "$(rekindle identity key create ann)"'))
    .action(async (user, options) => (await load()).createKey(user, options, env));
  command(key, 'ls', "list a user's access keys")
    .argument('<user>')
    .addHelpText('after', examples('rekindle identity key ls ann'))
    .action(async (user, options) => (await load()).listKeys(user, options, env));
  command(key, 'rm', 'remove an access key; it stops working at once')
    .argument('<user>')
    .argument('<id>')
    .addHelpText('after', examples('rekindle identity key rm ann AKIA...'))
    .action(async (user, id, options) => (await load()).removeKey(user, id, options, env));
}

function addPolicies(identity: Command, env: Environment): void {
  const load = () => import('./commands/identity.ts');
  const policy = identity.command('policy').description('what a user or role may do: IAM policies as JSON');
  const of = (parent: Command, name: string, description: string) =>
    command(parent, name, description).option('--user <name>', 'of this user').option('--role <name>', 'of this role');
  of(policy, 'put', 'give a user or role a policy, or replace it')
    .argument('<name>')
    .argument('<file>', 'the JSON document; - reads the standard input')
    .addHelpText('after', examples('rekindle identity policy put --user ann run-shop policy.json'))
    .action(async (name, file, options) => (await load()).putPolicy(name, file, options, env));
  of(policy, 'ls', "list a user's or role's policies")
    .addHelpText('after', examples('rekindle identity policy ls --user ann'))
    .action(async (options) => (await load()).listPolicies(options, env));
  of(policy, 'show', 'print a policy')
    .argument('<name>')
    .addHelpText('after', examples('rekindle identity policy show --user ann run-shop'))
    .action(async (name, options) => (await load()).showPolicy(name, options, env));
  of(policy, 'rm', 'remove a policy')
    .argument('<name>')
    .addHelpText('after', examples('rekindle identity policy rm --user ann run-shop'))
    .action(async (name, options) => (await load()).removePolicy(name, options, env));

  of(identity, 'explain', 'say whether a user or role may do a thing, and which statements decide')
    .requiredOption('--action <action>', 'such as lambda:RunMicrovm')
    .option('--resource <arn>', 'what it is done to', '*')
    .option('--context <key=value>', 'a condition key of the request; repeatable', collect)
    .addHelpText(
      'after',
      examples(
        'rekindle identity explain --user ann --action lambda:RunMicrovm --resource <image-arn>',
        'rekindle identity explain --user ann --action lambda:CreateMicrovmImage --context aws:RequestTag/team=a',
      ),
    )
    .action(async (options) => (await load()).explain(options, env));
}

/** A command with the options that all commands have. */
function command(parent: Command, name: string, description: string): Command {
  return parent.command(name).description(description).option(STATE_FLAG, STATE_HELP).option('--json', JSON_HELP);
}

function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}`;
}

function collect(value: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), value];
}

function port(text: string): string {
  if (!/^[1-9]\d{0,4}$/.test(text) || Number(text) > 65_535)
    throw new InvalidArgumentError('a port is a number from 1 to 65535.');
  return text;
}
