/**
 * Exits 0 when node_modules holds what package-lock.json asks for. Runs on whatever old Node is on the machine, before
 * the project's own is installed.
 */
'use strict';
const { readFileSync } = require('node:fs');

const packagesOf = (path) => JSON.parse(readFileSync(path, 'utf8')).packages;

try {
  const wanted = packagesOf('package-lock.json');
  const installed = packagesOf('node_modules/.package-lock.json');
  const differs = (path) => {
    const [want, have] = [wanted[path], installed[path]];
    // Packages for other platforms are left out by npm.
    if (have === undefined) return want.optional !== true;
    return want.version !== have.version || want.integrity !== have.integrity;
  };
  const paths = Object.keys(wanted).filter((path) => path !== '');
  const foreign = Object.keys(installed).some((path) => wanted[path] === undefined);
  process.exitCode = foreign || paths.some(differs) ? 1 : 0;
} catch {
  process.exitCode = 1;
}
