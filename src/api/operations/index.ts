/** Every operation of both tables, with its behaviour. */
import type { AnyBehaviour, OperationName } from '../operation.ts';
import { createMicrovmAuthToken } from './create-microvm-auth-token.ts';
import { createMicrovmImage } from './create-microvm-image.ts';
import { createMicrovmShellAuthToken } from './create-microvm-shell-auth-token.ts';
import { createNetworkConnector } from './create-network-connector.ts';
import { deleteMicrovmImage } from './delete-microvm-image.ts';
import { deleteMicrovmImageVersion } from './delete-microvm-image-version.ts';
import { deleteNetworkConnector } from './delete-network-connector.ts';
import { getMicrovm } from './get-microvm.ts';
import { getMicrovmImage } from './get-microvm-image.ts';
import { getMicrovmImageBuild } from './get-microvm-image-build.ts';
import { getMicrovmImageVersion } from './get-microvm-image-version.ts';
import { getNetworkConnector } from './get-network-connector.ts';
import { listManagedMicrovmImageVersions } from './list-managed-microvm-image-versions.ts';
import { listManagedMicrovmImages } from './list-managed-microvm-images.ts';
import { listMicrovmImageBuilds } from './list-microvm-image-builds.ts';
import { listMicrovmImageVersions } from './list-microvm-image-versions.ts';
import { listMicrovmImages } from './list-microvm-images.ts';
import { listMicrovms } from './list-microvms.ts';
import { listNetworkConnectors } from './list-network-connectors.ts';
import { listTags } from './list-tags.ts';
import { resumeMicrovm } from './resume-microvm.ts';
import { runMicrovm } from './run-microvm.ts';
import { suspendMicrovm } from './suspend-microvm.ts';
import { tagResource } from './tag-resource.ts';
import { terminateMicrovm } from './terminate-microvm.ts';
import { untagResource } from './untag-resource.ts';
import { updateMicrovmImage } from './update-microvm-image.ts';
import { updateMicrovmImageVersion } from './update-microvm-image-version.ts';
import { updateNetworkConnector } from './update-network-connector.ts';

export const behaviours: Readonly<Record<OperationName, AnyBehaviour>> = {
  CreateMicrovmImage: createMicrovmImage,
  UpdateMicrovmImage: updateMicrovmImage,
  GetMicrovmImage: getMicrovmImage,
  ListMicrovmImages: listMicrovmImages,
  DeleteMicrovmImage: deleteMicrovmImage,
  GetMicrovmImageVersion: getMicrovmImageVersion,
  ListMicrovmImageVersions: listMicrovmImageVersions,
  UpdateMicrovmImageVersion: updateMicrovmImageVersion,
  DeleteMicrovmImageVersion: deleteMicrovmImageVersion,
  GetMicrovmImageBuild: getMicrovmImageBuild,
  ListMicrovmImageBuilds: listMicrovmImageBuilds,
  ListManagedMicrovmImages: listManagedMicrovmImages,
  ListManagedMicrovmImageVersions: listManagedMicrovmImageVersions,
  RunMicrovm: runMicrovm,
  GetMicrovm: getMicrovm,
  ListMicrovms: listMicrovms,
  SuspendMicrovm: suspendMicrovm,
  ResumeMicrovm: resumeMicrovm,
  TerminateMicrovm: terminateMicrovm,
  CreateMicrovmAuthToken: createMicrovmAuthToken,
  CreateMicrovmShellAuthToken: createMicrovmShellAuthToken,
  TagResource: tagResource,
  UntagResource: untagResource,
  ListTags: listTags,
  CreateNetworkConnector: createNetworkConnector,
  GetNetworkConnector: getNetworkConnector,
  ListNetworkConnectors: listNetworkConnectors,
  UpdateNetworkConnector: updateNetworkConnector,
  DeleteNetworkConnector: deleteNetworkConnector,
};
